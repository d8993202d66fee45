"""Check every byte of a store and name every fault: ``python -m sekd.store.verify artifacts/demo [--forget]``.

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

from tqdm import tqdm

from sekd.errors import SekdError, exit_on_error
from sekd.recent import PASS_FILE
from sekd.store import manifest as m
from sekd.store.audit import shard_faults
from sekd.store.files import DamagedStoreError, files_below, read_sealed, remove, temporary_name
from sekd.store.lock import describe, hold, holders
from sekd.store.reader import CREATED, Store

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
    """Every fault of a store, shard by shard; empty where it is complete and every byte is as it was written.

    Takes a path too, because a store whose manifest is damaged cannot be opened.
    """
    path = store.path if isinstance(store, Store) else Path(store)
    faults = list(_store_faults(path))
    manifest = None if any(fault.file == m.MANIFEST for fault in faults) else m.read_manifest(path)
    shards = range(manifest.plan.n_shards) if manifest else m.listed(path)  # a plan that cannot be read names no shard

    def check(index: int) -> list[Fault]:
        return [Fault(index, file, what) for file, what in shard_faults(path, index, manifest)]

    with ThreadPoolExecutor(THREADS) as pool:
        bar = tqdm(pool.map(check, shards), total=len(shards), unit="shard", desc=str(path), disable=not progress)
        for found in bar:
            faults += found
    return faults + list(_stray_files(path, set(shards)))


def forget(path: Path, faults: Iterable[Fault]) -> list[int]:
    """Drop what is faulty: whole shards; temporaries; a damaged manifest, which the next pass rewrites.

    Returns the shards dropped. Files that no store makes are left to their owner.

    Raises:
        SekdError: a run is at work on the store.
    """
    faults = tuple(faults)
    shards = sorted({fault.shard for fault in faults if fault.shard is not None})
    with hold(path):
        for index in shards:
            if (folder := m.shard_folder(path, index)).exists():
                going = temporary_name(path / "tmp", m.shard_name(index))
                folder.rename(going)  # gone in one step, as it came
                remove(going)
            remove(m.provenance_file(path, index))
        for fault in faults:
            if fault.shard is None and fault.file in (m.MANIFEST, CREATED):
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


def _store_faults(path: Path) -> Iterator[Fault]:
    for file, read in ((m.MANIFEST, lambda: m.read_manifest(path)), (CREATED, lambda: read_sealed(path / CREATED))):
        try:
            read()
        except DamagedStoreError as error:
            yield Fault(None, file, error.what)


def _stray_files(path: Path, shards: set[int]) -> Iterator[Fault]:
    busy = holders(path)
    names = {m.shard_name(index) for index in shards}
    expected = {m.MANIFEST, CREATED, PASS_FILE, *(f"provenance/{name}.json" for name in names)}
    for file in files_below(path):
        top, _, rest = file.partition("/")
        if file in expected or top == "locks" or (top == "shards" and rest.partition("/")[0] in names):
            continue
        if top == "tmp":
            if not busy:
                stem = rest.partition(".")[0]
                shard = int(stem) if stem.isdigit() else None
                yield Fault(None, file, f"stale temporary{'' if shard is None else f' of shard {shard}'}")
        else:
            yield Fault(None, file, "not of this store: neither its manifest nor a shard knows it")


def _report(path: Path, *, drop: bool) -> bool:
    """Verify one store, print what is found; whether it is whole, or was never begun."""
    start = time.perf_counter()
    for run in holders(path):
        print(f"{path}: in use by {describe(run)}", file=sys.stderr)
    if (path / m.MANIFEST).is_file() and not m.listed(path) and not list(_store_faults(path)):
        print(f"{path}: empty, its pass ended before the first shard was written; nothing to check")
        return True
    faults = verify(path, progress=sys.stderr.isatty())
    for fault in faults:
        print(f"{path}: {fault}")
    size = sum((path / file).stat().st_size for file in files_below(path))
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
