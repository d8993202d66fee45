import os
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


def test_another_process_can_write_the_ring() -> None:
    reader, _ = ring()
    script = (
        "import numpy as np; from sekd.inference.hidden_rows import RowWriter; "
        f"RowWriter({reader.path!r}, slots=4, row_bytes={reader.row_bytes})"
        ".write(3, np.full(6, 9, np.float32).view(np.uint8))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ)
    assert reader.read(3).tolist() == [[9] * 3] * 2
