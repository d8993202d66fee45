"""Two runs never work on the same part of a store, and a dead run keeps nobody out."""

import os
import socket
import subprocess
import sys
import time

import pytest
from store_passes import new_store

from sekd.errors import SekdError
from sekd.store import lock
from sekd.store.lock import ShardPart, hold, holders
from sekd.store.manifest import read_sealed, seal

HOLDER = """
import sys, time
from pathlib import Path
from sekd.store.lock import ShardPart, hold
with hold(Path(sys.argv[1]), ShardPart(int(sys.argv[2]), int(sys.argv[3]))):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path):
    return new_store(tmp_path).path


@pytest.fixture
def run_elsewhere(path):
    """Hold a part of the store in another process; killed in the end."""
    started = []

    def start(index: int = 0, count: int = 1) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLDER, str(path), str(index), str(count)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_second_run_refuses_and_names_the_first(path, run_elsewhere):
    first = run_elsewhere()
    with pytest.raises(SekdError, match=f"process {first.pid} on {socket.gethostname()} since 20"), hold(path):
        pass
    assert [holder["pid"] for holder in holders(path)] == [first.pid]


def test_a_killed_run_keeps_nobody_out(path, run_elsewhere):
    first = run_elsewhere()
    first.kill()  # and not waited for: a zombie counts as dead
    time.sleep(0.2)
    (path / "tmp" / "00001.left").mkdir()
    with hold(path):
        assert [holder["pid"] for holder in holders(path)] == [os.getpid()]
        assert not list((path / "tmp").iterdir())
    assert not list((path / "locks").iterdir())


def test_disjoint_parts_are_worked_on_at_once_and_overlapping_ones_are_not(path, run_elsewhere):
    run_elsewhere(1, 4)
    with hold(path, ShardPart(0, 4)), hold(path, ShardPart(3, 4)):
        pass
    for overlapping in (ShardPart(1, 4), ShardPart(1, 2), ShardPart(0, 3), ShardPart()):
        with pytest.raises(SekdError, match="on part 1/4"), hold(path, overlapping):
            pass


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("other_count", [1, 2, 3, 4, 6])
def test_parts_overlap_exactly_where_they_share_a_shard(count, other_count):
    for part in (ShardPart(i, count) for i in range(count)):
        for other in (ShardPart(i, other_count) for i in range(other_count)):
            shared = any(part.takes(shard) and other.takes(shard) for shard in range(count * other_count))
            assert part.overlaps(other) == shared


def test_a_part_that_does_not_exist_is_refused():
    with pytest.raises(SekdError, match="parts run from 0 to 3"):
        ShardPart(4, 4)


def foreign_lock(path, *, age: float):
    with hold(path):
        (own,) = (path / "locks").glob("run.*")
        body = {**read_sealed(own), "host": "elsewhere", "machine": "another boot", "pid": 1}
    file = path / "locks" / "run.foreign"
    file.write_text(seal(body))
    os.utime(file, (time.time() - age,) * 2)
    return file


def test_a_run_on_another_machine_counts_while_its_lock_is_touched(path):
    foreign_lock(path, age=lock.STALE_SECONDS / 2)
    with pytest.raises(SekdError, match="process 1 on elsewhere"), hold(path):
        pass


def test_a_lock_from_another_machine_that_nobody_touches_is_stale(path):
    file = foreign_lock(path, age=2 * lock.STALE_SECONDS)
    with hold(path):
        assert not file.exists()


def test_a_number_given_to_a_new_process_does_not_revive_a_lock(path):
    with hold(path):
        (own,) = (path / "locks").glob("run.*")
        body = {**read_sealed(own), "started": "1"}
    (path / "locks" / "run.old").write_text(seal(body))
    with hold(path):
        pass


def test_an_unreadable_lock_is_named(path):
    (path / "locks" / "run.broken").write_text("half a")
    with pytest.raises(SekdError, match=r"unreadable lock run\.broken"), hold(path):
        pass


def test_a_held_lock_is_kept_fresh(path, monkeypatch):
    monkeypatch.setattr(lock, "TOUCH_SECONDS", 0.02)
    with hold(path):
        (own,) = (path / "locks").glob("run.*")
        os.utime(own, (0, 0))
        deadline = time.monotonic() + 5
        while own.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert own.stat().st_mtime > 0


def test_taking_a_part_clears_what_earlier_runs_left_of_it_and_nothing_else(path):
    for shard in range(4):
        (path / "tmp" / f"{shard:05d}.left").mkdir()
    with hold(path, ShardPart(1, 2)):
        assert sorted(file.name for file in (path / "tmp").iterdir()) == ["00000.left", "00002.left"]
