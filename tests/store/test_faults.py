"""The fault table: each planted corruption is named by verify, by file and shard, and refused by the reader."""

import shutil
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from store_passes import fill, new_store

from sekd.errors import SekdError
from sekd.store import Store, as_float32
from sekd.store.manifest import files_below, read_sealed, seal
from sekd.store.verify import Fault, forget, main, verify

TARGETS = "shards/00001/targets.parquet"
ENTRY = "shards/00001/shard.json"
HIDDEN = "shards/00001/hidden.zarr/c/0/0/0"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fill(new_store(tmp_path_factory.mktemp("whole"))).path


@pytest.fixture
def store(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / whole.name))


def flip(file: Path, position: int) -> None:
    raw = bytearray(file.read_bytes())
    raw[position] ^= 1
    file.write_bytes(raw)


def read_everything(path: Path) -> None:
    store = Store.open(path)
    for index in range(store.plan.n_shards):
        store.read_targets(index)
        chunks = store.hidden_chunks(index)
        for chunk in range(len(chunks)):
            chunks.read(chunk)


def drop_chunk(file: Path, *, rows: int) -> None:
    """Mark the only chunk as absent, as a writer would that found nothing but fill value."""
    assert rows <= 64
    raw = file.read_bytes()
    index = b"\xff" * 16
    file.write_bytes(raw[:-20] + index + google_crc32c.value(index).to_bytes(4, "little"))


def reseal(file: Path, **changes) -> None:
    file.write_text(seal({**read_sealed(file), **changes}))


def from_another_fingerprint(store: Path, *, with_entry: bool) -> None:
    other = fill(new_store(store.parent / "other", identity={"model": "another"}), seed=3).path
    kept = (store / ENTRY).read_bytes()
    shutil.rmtree(store / "shards/00001")
    shutil.copytree(other / "shards/00001", store / "shards/00001")
    if not with_entry:
        (store / ENTRY).write_bytes(kept)


PLANTED = {
    "flipped bit in Parquet": (lambda s: flip(s / TARGETS, 700), 1, TARGETS, "checksum"),
    "flipped bit in Parquet's footer": (lambda s: flip(s / TARGETS, -5), 1, TARGETS, "checksum"),
    "flipped bit in Zarr": (lambda s: flip(s / HIDDEN, 100), 1, HIDDEN, "chunk 0 does not match"),
    "flipped bit in Zarr's index": (lambda s: flip(s / HIDDEN, -9), 1, HIDDEN, "checksum"),
    "flipped bit in Zarr's metadata": (
        lambda s: flip(s / "shards/00001/hidden.zarr/zarr.json", 40),
        1,
        "shards/00001/hidden.zarr/zarr.json",
        "checksum",
    ),
    "flipped bit in the manifest": (lambda s: flip(s / "manifest.json", 30), None, "manifest.json", "checksum"),
    "flipped bit in an entry": (lambda s: flip(s / ENTRY, 90), 1, ENTRY, "checksum"),
    "truncated Parquet": (
        lambda s: (s / TARGETS).write_bytes((s / TARGETS).read_bytes()[:-50]),
        1,
        TARGETS,
        "bytes long",
    ),
    "truncated Zarr": (lambda s: (s / HIDDEN).write_bytes((s / HIDDEN).read_bytes()[:-50]), 1, HIDDEN, "bytes long"),
    "empty Zarr": (lambda s: (s / HIDDEN).write_bytes(b""), 1, HIDDEN, "bytes long"),
    "missing chunk": (lambda s: drop_chunk(s / HIDDEN, rows=12), 1, HIDDEN, "chunk 0 is absent"),
    "missing chunk file": (lambda s: (s / HIDDEN).unlink(), 1, HIDDEN, "missing"),
    "missing Parquet": (lambda s: (s / TARGETS).unlink(), 1, TARGETS, "missing"),
    "missing shard": (lambda s: shutil.rmtree(s / "shards/00001"), 1, "shards/00001", "missing, though its provenance"),
    "missing entry": (lambda s: (s / ENTRY).unlink(), 1, ENTRY, "missing"),
    "manifest ahead of data": (
        lambda s: shutil.rmtree(s / "shards/00001/hidden.zarr"),
        1,
        HIDDEN,
        "missing, though shard.json lists it",
    ),
    "files from another fingerprint": (
        lambda s: from_another_fingerprint(s, with_entry=False),
        1,
        TARGETS,
        "shard.json",
    ),
    "shard and entry from another fingerprint": (
        lambda s: from_another_fingerprint(s, with_entry=True),
        1,
        ENTRY,
        "of fingerprint",
    ),
    "entry of another shard": (
        lambda s: shutil.copy(s / "shards/00000/shard.json", s / ENTRY),
        1,
        ENTRY,
        "of shard 0",
    ),
    "entry of another plan": (
        lambda s: reseal(s / ENTRY, examples=[4, 7]),
        1,
        ENTRY,
        "the plan says",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_named_by_verify_and_refused_by_the_reader(store, name, capsys):
    plant, shard, file, what = PLANTED[name]
    plant(store)
    faults = verify(store)
    assert any(f.shard == shard and f.file == file and what in f.what for f in faults), faults
    assert {f.shard for f in faults} <= {shard, None}
    assert main([str(store)]) == 1
    assert file in capsys.readouterr().out
    with pytest.raises(SekdError, match=r"store|shard"):
        read_everything(store)


def test_an_absent_chunk_is_refused_even_where_every_checksum_fits(store):
    drop_chunk(store / HIDDEN, rows=12)
    entry = store / ENTRY
    files = read_sealed(entry)["files"]
    reseal(entry, files={**files, "hidden.zarr/c/0/0/0": {**files["hidden.zarr/c/0/0/0"], "sha256": "0" * 64}})
    with pytest.raises(SekdError, match="chunk 0 is absent"):
        Store.open(store).hidden(1)


def test_what_zarr_reads_in_place_of_an_absent_chunk_is_not_a_number(store):
    array = zarr.open_array(store / "shards/00001/hidden.zarr", mode="r")
    drop_chunk(store / HIDDEN, rows=12)
    assert np.isnan(as_float32(array[:], "bfloat16")).all()


def test_a_whole_store_has_no_fault(store, capsys):
    assert verify(store) == []
    read_everything(store)
    assert main([str(store.parent)]) == 0
    assert "no faults" in capsys.readouterr().out


def test_any_changed_byte_of_any_file_is_found(store):
    rng = np.random.default_rng(0)
    files = files_below(store)
    assert len(files) == 2 + 3 * 5
    for name in files:
        size = (store / name).stat().st_size
        for position in {0, size - 1, *rng.integers(0, size, 6).tolist()}:
            flip(store / name, position)
            assert name in [fault.file for fault in verify(store)], (name, position)
            flip(store / name, position)
    assert verify(store) == []


def test_a_stale_temporary_is_named_and_never_read(store):
    shutil.copytree(store / "shards/00001", store / "tmp/00001.abcdef")
    faults = verify(store)
    assert {fault.file.split("/")[1] for fault in faults} == {"00001.abcdef"}
    assert all("stale temporary of shard 1" in fault.what for fault in faults)
    read_everything(store)
    forget(store, faults)
    assert verify(store) == []


def test_a_file_that_no_store_makes_is_named(store):
    (store / "notes.txt").write_text("mine")
    (store / "shards/00002/extra").write_text("mine")
    assert {(f.shard, f.file) for f in verify(store)} == {(None, "notes.txt"), (2, "shards/00002/extra")}


def test_several_faults_are_all_named_at_once(store):
    flip(store / TARGETS, 300)
    flip(store / HIDDEN, 3)
    flip(store / "shards/00002/targets.parquet", 300)
    assert [(f.shard, f.file) for f in verify(store)] == [
        (1, HIDDEN),
        (1, TARGETS),
        (2, "shards/00002/targets.parquet"),
    ]


def test_forgetting_leaves_exactly_the_faulty_shards_to_be_redone(store, whole):
    before = {name: (store / name).stat().st_mtime_ns for name in files_below(store) if "0000" in name}
    flip(store / TARGETS, 300)
    assert main([str(store), "--forget"]) == 1
    again = Store.open(store)
    assert again.missing() == [1]
    fill(again)
    assert verify(store) == []
    for name, touched in before.items():
        if name.startswith("shards"):
            assert (store / name).read_bytes() == (whole / name).read_bytes()
        assert "00001" in name or (store / name).stat().st_mtime_ns == touched


def test_a_forgotten_manifest_is_written_again_by_the_next_pass(store, whole):
    flip(store / "manifest.json", 30)
    forget(store, verify(store))
    with pytest.raises(SekdError, match="holds no store"):
        Store.open(store)
    original = Store.open(whole)
    fields = {"identity": original.identity, "plan": original.plan, "layout": original.layout}
    assert Store.create(store.parent, **fields).missing() == []
    assert verify(store) == []
    assert (store / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()


def test_a_store_still_growing_is_told_from_a_whole_one(tmp_path):
    store = new_store(tmp_path)
    assert verify(store) == [
        Fault(index, f"shards/0000{index}", "the shard is missing, not written yet") for index in range(3)
    ]


def test_a_store_that_was_never_begun_has_no_fault_to_name(tmp_path, capsys):
    store = new_store(tmp_path)
    assert main([str(store.path)]) == 0
    assert "empty, its pass ended before the first shard" in capsys.readouterr().out
    (store.path / "manifest.json").write_text("{}")
    assert main([str(store.path)]) == 1


def test_nothing_to_verify_is_said(tmp_path):
    with pytest.raises(SekdError, match="no store in"):
        main([str(tmp_path)])
