"""A shard is whole or absent, whatever happens to its writer."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from store_passes import data_bytes, fill, new_store, shard
from writers import PLAN as WRITERS_PLAN

from sekd.errors import SekdError
from sekd.store import Store
from sekd.store.verify import verify


def run_writers(*arguments) -> None:
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "writers.py", *map(str, arguments)], cwd=here, capture_output=True, text=True, timeout=3600
    )
    assert done.returncode == 0, done.stderr


def stores_below(root: Path) -> list[Store]:
    return [Store.open(file.parent) for file in sorted(root.glob("*/*/manifest.json"))]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, bytes]:
    return data_bytes(fill(new_store(tmp_path_factory.mktemp("uninterrupted"), plan=WRITERS_PLAN)))


@pytest.mark.slow
def test_a_writer_killed_at_random_moments_leaves_equal_bytes_in_the_end(tmp_path, uninterrupted):
    """``SEKD_KILLS`` asks for more than the 50 kills of a test run."""
    run_writers("kill", tmp_path, os.environ.get("SEKD_KILLS", "50"), 0)
    stores = stores_below(tmp_path)
    assert stores
    for store in stores:
        assert data_bytes(store) == uninterrupted
        assert verify(store) == []


def test_writers_at_once_leave_the_bytes_of_one(tmp_path, uninterrupted):
    run_writers("race", tmp_path, 3)
    stores = stores_below(tmp_path)
    assert len(stores) == 2
    for store in stores:
        assert data_bytes(store) == uninterrupted
        assert verify(store) == []


def test_a_disk_that_fills_at_any_moment_leaves_the_store_whole(tmp_path, monkeypatch):
    whole = data_bytes(fill(new_store(tmp_path / "whole")))
    store = new_store(tmp_path / "full")
    store.write_shard(0, *shard(store, 0), {})
    real_fsync, moments = os.fsync, 0
    while 1 in store.missing():
        calls = iter(range(moments))

        def full_after(descriptor, calls=calls):
            if next(calls, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real_fsync(descriptor)

        monkeypatch.setattr(os, "fsync", full_after)
        with pytest.raises(SekdError, match=r"shard 1 could not be written to .*No space left"):
            store.write_shard(1, *shard(store, 1), {})
        monkeypatch.setattr(os, "fsync", real_fsync)
        assert not any("hidden" in path.name for path in (store.path / "tmp").rglob("*"))
        assert {fault.shard for fault in verify(store)} <= {1, 2, None}
        moments += 1
    assert moments > 10
    assert data_bytes(fill(store)) == whole
    assert verify(store) == []


def test_a_file_that_may_not_grow_leaves_the_store_whole(tmp_path):
    """The kernel's own refusal, inside Zarr's and Parquet's writers; in a child, because the limit stays."""
    store = new_store(tmp_path)
    store.write_shard(0, *shard(store, 0), {})
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
        try:
            rows, hidden = shard(store, 1)
            store.write_shard(1, rows, hidden, {})
        except SekdError as error:
            os._exit(0 if "File too large" in str(error) else 2)
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert store.missing() == [1, 2]
    assert not list((store.path / "tmp").iterdir())
    fill(store)
    assert verify(store) == []


def test_a_shard_is_written_once_and_other_content_is_refused(tmp_path):
    store = fill(new_store(tmp_path))
    store.write_shard(1, *shard(store, 1), {"again": True})
    assert "again" not in store.provenance(1)
    with pytest.raises(SekdError, match=r"shard 1 of .* is already there with other content"):
        store.write_shard(1, *shard(store, 1, seed=9), {})
    assert verify(store) == []


def test_a_run_that_loses_the_race_by_a_moment_keeps_the_winners_shard(tmp_path, monkeypatch):
    store, winner = new_store(tmp_path / "here"), fill(new_store(tmp_path / "there"))
    real_rename, contents = Path.rename, {"same": 0, "other": 9}
    for index, (content, seed) in enumerate(contents.items()):

        def overtaken(building, folder):
            shutil.copytree(winner.path / "shards" / folder.name, folder)
            real_rename(building, folder)

        monkeypatch.setattr(Path, "rename", overtaken)
        rows, hidden = shard(store, index, seed=seed)
        with nullcontext() if content == "same" else pytest.raises(SekdError, match="with other content"):
            store.write_shard(index, rows, hidden, {})
    monkeypatch.undo()
    assert verify(fill(store)) == []
    assert data_bytes(store) == data_bytes(winner)


def test_skipped_examples_are_on_record(tmp_path):
    store = new_store(tmp_path)
    rows, hidden = shard(store, 0)
    kept = np.array([sample != "sample-0002" for sample in rows["sample"].to_pylist()])
    some = rows.filter(pa.array(kept)), hidden[kept]
    with pytest.raises(SekdError, match="rows of 3 examples in 3 runs, expected 4"):
        store.write_shard(0, *some, {})
    store.write_shard(0, *some, {}, skipped={"sample-0002": "images/sample-0002.jpg is truncated"})
    assert store.entry(0).skipped == {"sample-0002": "images/sample-0002.jpg is truncated"}
    assert verify(fill(store)) == []


def test_a_shard_of_which_all_was_skipped_has_no_rows(tmp_path):
    store = new_store(tmp_path)
    rows, hidden = shard(store, 2)
    store.write_shard(2, rows[:0], hidden[:0], {}, skipped={"sample-0008": "gone", "sample-0009": "gone"})
    assert verify(fill(store)) == []
    assert len(store.read_targets(2)) == 0
    assert len(store.hidden_chunks(2)) == 0
    assert store.hidden(2).shape == (0, 2, 16)


def test_a_store_without_hidden_states_says_so(tmp_path):
    store = fill(new_store(tmp_path, layers=()))
    assert verify(store) == []
    with pytest.raises(SekdError, match="holds no hidden states"):
        store.hidden(0)


def test_provenance_stands_beside_the_data(tmp_path):
    store = fill(new_store(tmp_path))
    assert store.provenance(0)["device"] == "none"
    assert not any("none" in raw.decode(errors="ignore") for name, raw in data_bytes(store).items() if "json" in name)
