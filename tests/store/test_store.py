"""Reading gives what was written, whoever wrote it and in whatever order."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr
from store_passes import IDENTITY, PLAN, data_bytes, fill, layout, new_store, shard

from sekd.errors import SekdError
from sekd.recent import PASS_FILE, record
from sekd.store import Store, as_float32
from sekd.store.manifest import seal
from sekd.store.verify import verify


def test_what_is_read_is_what_was_written(tmp_path):
    store = fill(new_store(tmp_path, hidden_dtype="float32"))
    for index in range(store.plan.n_shards):
        rows, hidden = shard(store, index)
        read = store.read_targets(index)
        exact = [name for name in read.column_names if "logprob" not in name]
        assert read.select(exact).equals(rows.select(exact))
        for name in ("topk_logprobs", "tail_logprob"):
            got, want = (np.concatenate(t.column(name).to_numpy().ravel(), axis=None) for t in (read, rows))
            np.testing.assert_allclose(got, want, rtol=1e-5)
        np.testing.assert_array_equal(store.hidden(index), hidden)


def test_only_the_columns_asked_for_are_read(tmp_path):
    store = fill(new_store(tmp_path))
    assert store.read_targets(1, ["answer", "topk_ids"]).column_names == ["answer", "topk_ids"]


def test_two_passes_leave_equal_bytes(tmp_path):
    assert data_bytes(fill(new_store(tmp_path / "one"))) == data_bytes(fill(new_store(tmp_path / "two")))


def test_missing_shards_are_told_and_only_those(tmp_path):
    store = new_store(tmp_path)
    assert store.missing() == [0, 1, 2]
    store.write_shard(1, *shard(store, 1), {})
    assert store.missing() == [0, 2]
    with pytest.raises(SekdError, match="shard 0 of 3 is missing"):
        store.read_targets(0)


def test_creating_a_store_again_opens_it_with_its_own_shard_size(tmp_path):
    store = fill(new_store(tmp_path))
    again = Store.create(tmp_path, identity=dict(reversed(IDENTITY.items())), plan=PLAN, layout=layout())
    assert again.path == store.path
    assert not again.missing()


def test_find_names_what_is_there_until_a_store_is_complete(tmp_path):
    store = new_store(tmp_path / "demo")
    store.write_shard(1, *shard(store, 1), {})
    with pytest.raises(SekdError, match=rf"{store.fingerprint} \(conditioned, 1 of 3 shards\)"):
        Store.find(tmp_path, "demo")
    fill(store)
    new_store(tmp_path / "demo", k=4)
    assert Store.find(tmp_path, "demo").fingerprint == store.fingerprint


def test_find_never_takes_a_pass_in_which_an_adapter_answered(tmp_path):
    """A later round's pass, or a student's own answers, is newer than the teacher's and asked in the same way."""
    identity = {**IDENTITY, "model": {"weights": "w", "adapter": "a"}}
    student = fill(Store.create(tmp_path / "demo", identity=identity, plan=PLAN, layout=layout()))
    with pytest.raises(SekdError, match=rf"{student.fingerprint} \(conditioned, by an adapter, 3 of 3 shards\)"):
        Store.find(tmp_path, "demo")
    teacher = fill(new_store(tmp_path / "demo"))
    assert Store.find(tmp_path, "demo").fingerprint == teacher.fingerprint


def test_chunks_together_are_the_whole_array(tmp_path):
    store = fill(new_store(tmp_path))
    array = zarr.open_array(store.path / "shards/00000/hidden.zarr", mode="r")
    together = store.hidden(0)
    np.testing.assert_array_equal(together, array[:])
    assert as_float32(together, "bfloat16").dtype == np.float32


def test_find_takes_the_store_that_was_created_last(tmp_path):
    older, newer = (fill(new_store(tmp_path / "demo", k=k)) for k in (4, 5))
    for store, created in ((older, "2030-01-02"), (newer, "2030-01-03")):
        file = store.path / "provenance" / "store.json"
        file.write_text(seal({"created": created}))
    assert Store.find(tmp_path, "demo").fingerprint == newer.fingerprint


def test_find_takes_the_pass_that_was_asked_for_again_before_one_that_was_made_later(tmp_path):
    """As the first line of `make student` says: data and model are those of the pass recorded last."""
    whole, trial = (fill(new_store(tmp_path / "demo", k=k)) for k in (4, 5))
    for store, at in ((trial, 10), (whole, 20)):
        record(store.path / PASS_FILE, {"data": "demo", "model": "tiny"}, [])
        os.utime(store.path / PASS_FILE, (at, at))
        (store.path / "provenance" / "store.json").write_text(seal({"created": f"2030-01-{30 - at}"}))
    assert Store.find(tmp_path, "demo").fingerprint == whole.fingerprint


def test_a_store_is_read_and_verified_where_nothing_may_be_written(tmp_path, monkeypatch):
    store = fill(new_store(tmp_path))

    def refuse(*_, **__):
        raise PermissionError("read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(Path, "write_text", refuse)
    assert verify(Store.open(store.path)) == []
    assert len(store.read_targets(0)) == store.entry(0).rows


def test_chunks_are_read_in_a_process_that_only_got_them_pickled(tmp_path):
    chunks = fill(new_store(tmp_path)).hidden_chunks(0)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(chunks)).read(0), chunks.read(0))
