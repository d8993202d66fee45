import os
import re
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from sekd.inference.hidden_rows import HiddenRowsError, RowReader, RowWriter


def ring(slots: int = 4) -> tuple[RowReader, RowWriter]:
    reader = RowReader(shape=(2, 3), dtype=np.dtype(np.float32), slots=slots)
    return reader, RowWriter(reader.path, slots=slots, row_bytes=reader.row_bytes)


def row(value: float) -> np.ndarray:
    return np.full((2, 3), value, np.float32).view(np.uint8).reshape(-1)


def test_rows_come_back_by_their_stamp_while_the_ring_turns() -> None:
    reader, writer = ring()
    for stamp in range(1, 50):
        writer.write(stamp, row(stamp))
        assert reader.read(stamp).tolist() == [[stamp] * 3] * 2


def test_the_reader_waits_for_a_row_that_is_on_its_way() -> None:
    reader, writer = ring()

    def later() -> None:
        time.sleep(0.05)
        writer.write(1, row(7))

    thread = threading.Thread(target=later)
    thread.start()
    assert reader.read(1)[0, 0] == 7
    thread.join()


def test_a_row_that_never_comes_is_an_error_and_not_an_old_row() -> None:
    reader, writer = ring()
    writer.write(1, row(1))
    with pytest.raises(HiddenRowsError, match="row 5 was not written"):
        reader.read(5, timeout=0.01)  # the slot of row 1


def test_an_overwritten_row_is_an_error() -> None:
    reader, writer = ring()
    for stamp in range(1, 6):
        writer.write(stamp, row(stamp))
    with pytest.raises(HiddenRowsError, match="row 1 was overwritten by row 5"):
        reader.read(1)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("turns", [0, 1], ids=["the first turn", "a turn later"])
def test_a_row_is_read_whole_or_not_at_all_however_far_its_writer_has_come(
    turns: int, backwards: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = ring()
    earlier, later = 1, 1 + 4 * turns
    if turns:
        writer.write(earlier, row(earlier))
    pwrite, reads = os.pwrite, []

    def read_both() -> None:
        for stamp in {earlier, later}:
            try:
                assert reader.read(stamp, timeout=0).tolist() == [[stamp] * 3] * 2
                reads.append(stamp)
            except HiddenRowsError:
                reads.append(None)

    def byte_by_byte(fd: int, data: bytes, at: int) -> int:
        for place in sorted(range(len(data)), reverse=backwards):
            read_both()
            pwrite(fd, data[place : place + 1], at + place)
        read_both()
        return len(data)

    monkeypatch.setattr(os, "pwrite", byte_by_byte)
    writer.write(later, row(later))
    assert reads[-1] == later or reads[-2] == later
    assert reads[0] == (earlier if turns else None)
    assert None in reads


def test_a_writer_that_laps_the_reader_gives_it_the_right_row_or_an_error() -> None:
    reader = RowReader(shape=(1, 4096), dtype=np.dtype(np.uint64), slots=2)
    script = (
        "import numpy as np, sys; from sekd.inference.hidden_rows import RowWriter; "
        f"writer = RowWriter({reader.path!r}, slots=2, row_bytes={reader.row_bytes}); "
        "[writer.write(stamp, np.full(4096, stamp, np.uint64)) for stamp in range(1, 20_000)]"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    right, stamp = 0, 1
    while stamp < 19_998:  # the last two stay readable
        try:
            assert (reader.read(stamp) == stamp).all(), f"a mixture was read as row {stamp}"
            right += 1
            stamp += 1
        except HiddenRowsError as error:
            stamp = int(re.search(r"was overwritten by row (\d+)", str(error))[1])  # type: ignore[index]
    assert process.wait() == 0
    assert right


def test_another_process_can_write_the_ring() -> None:
    reader, _ = ring()
    script = (
        "import numpy as np; from sekd.inference.hidden_rows import RowWriter; "
        f"RowWriter({reader.path!r}, slots=4, row_bytes={reader.row_bytes})"
        ".write(3, np.full(6, 9, np.float32).view(np.uint8))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ)
    assert reader.read(3).tolist() == [[9] * 3] * 2
