"""Check every byte of a store and list every fault: ``python -m sekd.store.verify artifacts/demo [--forget]``.

Exit status 0 when every store found is whole, 1 when any has a fault, 2 when there is nothing to check.
``--forget`` deletes faulty shards, so that the next teacher pass redoes those and no other.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from sekd.errors import SekdError, exit_on_error
from sekd.files import remove
from sekd.recent import PASS_FILE
from sekd.store import manifest as m
from sekd.store.hidden import ARRAY_FILE, where_not_finite
from sekd.store.lock import describe, hold, holders
from sekd.store.manifest import DamagedStoreError
from sekd.store.reader import Store
from sekd.store.schema import row_faults, schema

THREADS = 4


@dataclass(frozen=True)
class Fault:
    """One thing wrong: in which shard (None: the store as a whole), which file (relative to the store), and what."""

    shard: int | None
    file: str
    what: str

    def __str__(self) -> str:
        return f"{'store' if self.shard is None else f'shard {self.shard}'}: {self.file}: {self.what}"


def verify(store: Store | Path, *, progress: bool = False) -> list[Fault]:
    """Every fault of a store, shard by shard; empty if it is complete and every byte is as it was written.

    Takes a path too, because a store whose manifest is damaged cannot be opened.
    """
    path = store.path if isinstance(store, Store) else Path(store)
    faults = _metadata_faults(path)
    opened = None if any(fault.file == m.MANIFEST for fault in faults) else Store.open(path)
    shards = range(opened.plan.n_shards) if opened else m.listed(path)  # without a manifest: those that are there

    def check(index: int) -> list[Fault]:
        found = _shard_faults(path, index, opened)
        return [Fault(index, file.relative_to(path).as_posix(), what) for file, what in found]

    with ThreadPoolExecutor(THREADS) as pool:
        bar = tqdm(pool.map(check, shards), total=len(shards), unit="shard", desc=str(path), disable=not progress)
        for found in bar:
            faults += found
    return faults + list(_stray_files(path, set(shards)))


def forget(path: Path, faults: Iterable[Fault]) -> list[int]:
    """Delete what is faulty: whole shards; temporary files; a damaged manifest, which the next pass writes again.

    Returns the shards deleted. Files that no store makes are kept.

    Raises:
        SekdError: a run is at work on the store.
    """
    faults = tuple(faults)
    shards = sorted({fault.shard for fault in faults if fault.shard is not None})
    with hold(path):
        for index in shards:
            if (folder := m.shard_folder(path, index)).exists():
                deleted = m.temporary_name(path / "tmp", m.shard_name(index))
                folder.rename(deleted)  # in one step, as it was published
                remove(deleted)
            remove(m.provenance_file(path, index))
        for fault in faults:
            if fault.shard is None and fault.file in (m.MANIFEST, m.CREATED):
                remove(path / fault.file)
    return shards


def find_stores(paths: Sequence[Path]) -> list[Path]:
    """The stores at or below ``paths``, also those whose manifest is lost.

    Raises:
        SekdError: there is none below one of them.
    """
    stores = []
    for path in paths:
        found = [folder for folder in (path, *sorted(path.glob("**/"))) if _is_store(folder)]
        if not found:
            raise SekdError(f"no store in {path}: expected a folder with a {m.MANIFEST}; `make teacher` makes one")
        stores += found
    return list(dict.fromkeys(stores))


def _is_store(folder: Path) -> bool:
    return (folder / m.MANIFEST).is_file() or all((folder / name).is_dir() for name in ("shards", "provenance"))


def _metadata_faults(path: Path) -> list[Fault]:
    faults = []
    for name in (m.MANIFEST, m.CREATED):
        try:
            m.read_manifest(path) if name == m.MANIFEST else m.read_sealed(path / name)
        except DamagedStoreError as error:
            faults.append(Fault(None, name, error.what))
    return faults


def _shard_faults(path: Path, index: int, store: Store | None) -> Iterator[tuple[Path, str]]:
    """The faults of one shard by file: of its bytes and, if those are as written, of its content.

    Without a store (its manifest is damaged) only bytes are checked.
    """
    folder, provenance = m.shard_folder(path, index), m.provenance_file(path, index)
    if not folder.exists():
        what = "though its provenance is there" if provenance.exists() else "not written yet"
        yield folder, f"the shard is missing, {what}"
        return
    entry = None
    try:
        entry = m.read_entry(path, index, store.manifest if store else None)
        m.read_sealed(provenance)
    except DamagedStoreError as error:
        yield error.file, error.what
    if entry is None:
        return
    damaged = False
    for file, what in _byte_faults(folder, entry):
        damaged = True
        yield file, (_chunk_fault(store, index, file) if store else None) or what
    if store and not damaged:
        yield from _content_faults(store, folder, entry)


def _byte_faults(folder: Path, entry: m.Entry) -> Iterator[tuple[Path, str]]:
    there = set(m.files_below(folder)) - {m.ENTRY}
    for name in sorted(there | set(entry.files)):
        file = folder / name
        if name not in there:
            yield file, f"missing, though {m.ENTRY} lists it"
        elif name not in entry.files:
            yield file, f"not in {m.ENTRY}"
        elif (found := m.file_digest(file)) != (recorded := entry.files[name]):
            origin, own = _origin(file), (entry.fingerprint, str(entry.shard))
            if origin and origin != own:
                yield file, f"of fingerprint {origin[0]}, shard {origin[1]}; expected {own[0]}, shard {own[1]}"
            elif found["bytes"] != recorded["bytes"]:
                yield file, f"{found['bytes']} bytes long, {m.ENTRY} says {recorded['bytes']}"
            else:
                yield file, f"does not match its checksum in {m.ENTRY}"


def _origin(file: Path) -> tuple[str, str] | None:
    """The fingerprint and shard in a Parquet file's metadata; None if that cannot be read."""
    if file.name != m.TARGETS:
        return None
    try:
        metadata = pq.read_schema(file).metadata or {}
        return metadata[b"fingerprint"].decode(), metadata[b"shard"].decode()
    except (pa.ArrowException, OSError, ValueError, KeyError):
        return None


def _chunk_fault(store: Store, index: int, file: Path) -> str | None:
    """What reading chunk by chunk says of a damaged file of hidden states: it names the chunk."""
    if not file.match(f"{m.HIDDEN}/{ARRAY_FILE}"):
        return None
    try:
        chunks = store.hidden_chunks(index)
        for chunk in range(len(chunks)):
            chunks.read(chunk)
    except DamagedStoreError as error:
        return error.what if error.file == file else None
    return None


def _content_faults(store: Store, folder: Path, entry: m.Entry) -> Iterator[tuple[Path, str]]:
    """The faults of a writer: what it wrote is unchanged and yet impossible."""
    layout, targets = store.layout, folder / m.TARGETS
    rows = store.read_targets(entry.shard)
    if not rows.schema.equals(schema(layout)):
        yield targets, f"its columns are not those of this layout: {rows.schema.names}"
        return
    if len(rows) != entry.rows:
        yield targets, f"{len(rows)} rows, {m.ENTRY} says {entry.rows}"
    examples = entry.examples[1] - entry.examples[0] - len(entry.skipped)
    yield from ((targets, what) for what in row_faults(rows, layout=layout, examples=examples))
    if not layout.layers:
        return
    chunks = store.hidden_chunks(entry.shard)
    expected = (len(rows), len(layout.layers), layout.hidden_size)
    if chunks.shape != expected:
        yield folder / m.HIDDEN, f"shape {list(chunks.shape)}, expected {list(expected)}"
    for chunk in range(len(chunks)):
        if place := where_not_finite(np.asarray(chunks.read(chunk))):
            yield folder / m.HIDDEN, f"chunk {chunk}, row {chunks.rows(chunk)[place[0]]}: a value that is not finite"


def _stray_files(path: Path, shards: set[int]) -> Iterator[Fault]:
    busy = holders(path)
    names = {m.shard_name(index) for index in shards}
    expected = {m.MANIFEST, m.CREATED, PASS_FILE, *(f"provenance/{name}.json" for name in names)}
    for file in m.files_below(path):
        top, _, rest = file.partition("/")
        if file in expected or top == "locks" or (top == "shards" and rest.partition("/")[0] in names):
            continue
        if top != "tmp":
            yield Fault(None, file, "not of this store: neither its manifest nor a shard lists it")
        elif not busy:
            stem = rest.partition(".")[0]
            yield Fault(None, file, f"stale temporary{f' of shard {int(stem)}' if stem.isdigit() else ''}")


def _report(path: Path, *, drop: bool) -> bool:
    """Verify one store and print what is found; whether it is whole, or empty."""
    start = time.perf_counter()
    for run in holders(path):
        print(f"{path}: in use by {describe(run)}", file=sys.stderr)
    if (path / m.MANIFEST).is_file() and not m.listed(path) and not _metadata_faults(path):
        print(f"{path}: empty, its pass ended before the first shard was written; nothing to check")
        return True
    faults = verify(path, progress=sys.stderr.isatty())
    for fault in faults:
        print(f"{path}: {fault}")
    size = sum((path / file).stat().st_size for file in m.files_below(path))
    seconds = time.perf_counter() - start
    print(f"{path}: {len(faults) or 'no'} faults in {size / 1e6:.1f} MB, {seconds:.1f} s")
    if faults and drop:
        print(f"{path}: forgot shards {forget(path, faults)}; `make teacher` redoes them")
    elif faults:
        print(f"{path}: run again with --forget to drop the shards named; `make teacher` then redoes only those")
    return not faults


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sekd.store.verify", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, help="a store, or a folder of stores")
    parser.add_argument("--forget", action="store_true", help="drop faulty shards, so that the teacher redoes them")
    given = parser.parse_args(arguments)
    whole = [_report(path, drop=given.forget) for path in find_stores(given.paths)]
    return 0 if all(whole) else 1


if __name__ == "__main__":
    with exit_on_error():
        sys.exit(main())
