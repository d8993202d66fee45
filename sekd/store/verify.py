"""Check every byte of a store and list every fault: ``python -m sekd.store.verify artifacts/demo [--forget]``.

Exit status 0 when every store found is complete and correct, 1 when any has a fault, 2 when there is none. ``--forget``
deletes faulty shards, so that the next teacher pass repeats only those.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sekd.errors import SekdError, as_typed, exit_on_error
from sekd.files import remove
from sekd.recent import PASS_FILE
from sekd.store import manifest as m
from sekd.store.hidden import ARRAY_FILE, where_not_finite
from sekd.store.lock import describe, hold, holders
from sekd.store.manifest import DamagedStoreError
from sekd.store.schema import row_faults, schema
from sekd.store.store import Store

MANY = 64  # shards from which on all cores check
Found = tuple[Path, str]  # a file and what is wrong with it


@dataclass(frozen=True)
class Fault:
    """One fault: its shard (None: the store itself), file (relative to the store) and description."""

    shard: int | None
    file: str
    what: str

    def __str__(self) -> str:
        return f"{'store' if self.shard is None else f'shard {self.shard}'}: {self.file}: {self.what}"


def verify(store: Store | Path, *, progress: bool = False) -> list[Fault]:
    """Every fault of a store, by shard; empty if it is complete and unchanged.

    Takes a path too, because a store whose manifest is damaged cannot be opened.
    """
    path = store.path if isinstance(store, Store) else Path(store)
    faults = _metadata_faults(path)
    opened = None if any(fault.file == m.MANIFEST for fault in faults) else Store.open(path)
    shards = range(opened.plan.n_shards) if opened else m.listed(path)  # without a manifest: those that are there

    check = partial(_checked, path, opened)
    cores = len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        checked: Iterator[list[Fault]] = map(check, shards)
        if len(shards) >= MANY and cores > 1:  # less is done before the processes have started
            pool = stack.enter_context(ProcessPoolExecutor(cores, get_context("spawn")))
            checked = pool.map(check, shards, chunksize=4)
        for found in tqdm(checked, total=len(shards), unit="shard", desc=str(path), disable=not progress):
            faults += found
    return faults + list(_stray_files(path, set(shards)))


def forget(path: Path, faults: Iterable[Fault]) -> list[int]:
    """Delete what is faulty: whole shards; temporary files; a damaged manifest, which the next pass writes again.

    Returns the shards deleted. Files that no store makes are kept.

    Raises:
        SekdError: a run is writing the store.
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


def find_stores(path: Path) -> list[Path]:
    """The stores at or below ``path``, also those whose manifest is lost; ``SekdError`` if there is none."""
    found = sorted({file.parent for name in (m.MANIFEST, "shards") for file in path.glob(f"**/{name}")})
    if not found:
        raise SekdError(f"no store in {path}: expected a folder with a {m.MANIFEST}; `make teacher` makes one")
    return found


def _raised(check: Callable[..., Any], *arguments: Any) -> list[Found]:
    """The fault that one of the reader's checks raises, if any."""
    try:
        check(*arguments)
    except DamagedStoreError as error:
        return [(error.file, error.what)]
    return []


def _metadata_faults(path: Path) -> list[Fault]:
    found = _raised(m.read_manifest, path) + _raised(m.read_sealed, path / m.CREATED)
    return [Fault(None, file.relative_to(path).as_posix(), what) for file, what in found]


def _checked(path: Path, store: Store | None, index: int) -> list[Fault]:
    found = _shard_faults(path, index, store)
    return [Fault(index, file.relative_to(path).as_posix(), what) for file, what in found]


def _shard_faults(path: Path, index: int, store: Store | None) -> list[Found]:
    """The faults of one shard by file: of its bytes and, if those are as written, of its content.

    Without a store (its manifest is damaged) only the bytes are checked.
    """
    folder, provenance = m.shard_folder(path, index), m.provenance_file(path, index)
    if not folder.exists():
        what = "though its provenance is there" if provenance.exists() else "not written yet"
        return [(folder, f"the shard is missing, {what}")]
    manifest = store.manifest if store else None
    own, aside = _raised(m.read_entry, path, index, manifest), _raised(m.read_sealed, provenance)
    if own:
        return own + aside
    entry = m.read_entry(path, index, manifest)
    damaged = []
    for name in sorted({*m.files_below(folder), *entry.files} - {m.ENTRY}):
        if name not in entry.files:
            damaged.append((folder / name, f"not in {m.ENTRY}"))
        elif found := _raised(m.read_checked, folder / name, entry.files[name]):
            # Of a file of hidden states, reading chunk by chunk names the chunk.
            chunk = _raised(_read_chunks, store, index) if store and name.endswith(ARRAY_FILE) else []
            damaged += [fault for fault in chunk if fault[0] == folder / name] or found
    return aside + (damaged or (list(_content_faults(store, folder, entry)) if store else []))


def _read_chunks(store: Store, index: int) -> None:
    chunks = store.hidden_chunks(index)
    for chunk in range(len(chunks)):
        chunks.read(chunk)


def _content_faults(store: Store, folder: Path, entry: m.Entry) -> Iterator[Found]:
    """Faults of the writer: unchanged bytes with impossible values."""
    layout, targets = store.layout, folder / m.TARGETS
    rows = store.read_targets(entry.shard)
    if not rows.schema.equals(schema(layout)):
        yield targets, f"its columns are not those of this layout: {rows.schema.names}"
        return
    if len(rows) != entry.rows:
        yield targets, f"{len(rows)} rows, {m.ENTRY} says {entry.rows}"
    examples = len(range(*entry.examples)) - len(entry.skipped)
    yield from ((targets, what) for what in row_faults(rows, layout=layout, examples=examples))
    if not layout.layers:
        return
    chunks = store.hidden_chunks(entry.shard)
    expected = (len(rows), len(layout.layers), layout.hidden_size)
    if chunks.shape != expected:
        yield folder / m.HIDDEN, f"shape {list(chunks.shape)}, expected {list(expected)}"
    for chunk in range(len(chunks)):
        if place := where_not_finite(chunks.read(chunk)):
            yield folder / m.HIDDEN, f"chunk {chunk}, row {chunks.rows(chunk)[place[0]]}: a value that is not finite"


def _stray_files(path: Path, shards: set[int]) -> Iterator[Fault]:
    busy = holders(path)
    names = {m.shard_name(index) for index in shards}
    expected = {m.MANIFEST, m.CREATED, PASS_FILE, *(f"provenance/{name}.json" for name in names)}
    for file in m.files_below(path):
        top, _, rest = file.partition("/")
        if (
            file in expected
            or top == "locks"
            or file.startswith(m.LOOKED)
            or (top == "shards" and rest.partition("/")[0] in names)
        ):
            continue
        if top != "tmp":
            yield Fault(None, file, "not of this store: neither its manifest nor a shard lists it")
        elif not busy:
            stem = rest.partition(".")[0]
            yield Fault(None, file, f"stale temporary{f' of shard {int(stem)}' if stem.isdigit() else ''}")


def _report(path: Path, *, drop: bool) -> bool:
    """Verify one store and print what is found; whether it is complete and correct, or empty."""
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
        print(as_typed(f"{path}: forgot shards {forget(path, faults)}; `make teacher` redoes them"))
    elif faults:
        again = "run again with --forget to drop the shards named; `make teacher` then redoes only those"
        print(as_typed(f"{path}: {again}"))
    return not faults


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sekd.store.verify", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("paths", nargs="*", type=Path, default=[Path("artifacts")], help="stores, or folders of them")
    parser.add_argument("--forget", action="store_true", help="drop faulty shards, so that the teacher redoes them")
    given = parser.parse_args(arguments)
    stores = dict.fromkeys(store for path in given.paths for store in find_stores(path))
    whole = [_report(path, drop=given.forget) for path in stores]
    return 0 if all(whole) else 1


if __name__ == "__main__":
    with exit_on_error():
        sys.exit(main())
