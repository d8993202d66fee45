"""What can be wrong with one shard: first its bytes against its entry, then its content against sense."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sekd.store import manifest as m
from sekd.store.files import DamagedStoreError, file_digest, files_below, read_sealed
from sekd.store.hidden import ARRAY_FILE, where_not_finite
from sekd.store.reader import Store
from sekd.store.schema import row_faults, schema

Named = tuple[str, str]  # a file, relative to the store, and what is wrong with it


def shard_faults(path: Path, index: int, manifest: m.Manifest | None) -> list[Named]:
    """Every fault of shard ``index``. Without a manifest (it is damaged) only bytes are checked."""
    name = m.shard_name(index)
    if not m.shard_folder(path, index).exists():
        lost = m.provenance_file(path, index).exists()
        what = "though its provenance is there" if lost else "not written yet"
        return [(f"shards/{name}", f"the shard is missing, {what}")]
    faults = _sealed_fault(path, m.provenance_file(path, index))
    try:
        entry = m.read_entry(path, index, manifest) if manifest else m.read_entry_alone(path, index)
    except DamagedStoreError as error:
        return [*faults, (_relative(path, error.file), error.what)]
    store = Store(path, manifest) if manifest else None
    damaged = [(file, _which_chunk(store, index, file) or what) for file, what in _byte_faults(path, entry)]
    if damaged or store is None:
        return faults + damaged
    return faults + list(_content_faults(store, entry))


def _sealed_fault(path: Path, file: Path) -> list[Named]:
    try:
        read_sealed(file)
    except DamagedStoreError as error:
        return [(_relative(path, file), error.what)]
    return []


def _byte_faults(path: Path, entry: m.Entry) -> Iterator[Named]:
    folder = m.shard_folder(path, entry.shard)
    there = set(files_below(folder)) - {m.ENTRY}
    for name in sorted(there | set(entry.files)):
        file = folder / name
        if name not in there:
            yield _relative(path, file), f"missing, though {m.ENTRY} lists it"
        elif name not in entry.files:
            yield _relative(path, file), f"not in {m.ENTRY}"
        elif what := _changed(file, entry, entry.files[name]):
            yield _relative(path, file), what


def _changed(file: Path, entry: m.Entry, recorded: dict) -> str | None:
    found = file_digest(file)
    if found == recorded:
        return None
    stranger = _origin(file)
    if stranger and stranger != (entry.fingerprint, str(entry.shard)):
        return f"of shard {stranger[1]} of fingerprint {stranger[0]}, expected {entry.shard} of {entry.fingerprint}"
    if found["bytes"] != recorded["bytes"]:
        return f"{found['bytes']} bytes long, {m.ENTRY} says {recorded['bytes']}"
    return f"does not match its checksum in {m.ENTRY}"


def _which_chunk(store: Store | None, index: int, file: str) -> str | None:
    """What a chunk-by-chunk read says of a damaged file of hidden states: more than that its checksum is wrong."""
    if store is None or not file.endswith(f"{m.HIDDEN}/{ARRAY_FILE}"):
        return None
    try:
        chunks = store.hidden_chunks(index)
        for chunk in range(len(chunks)):
            chunks.read(chunk)
    except DamagedStoreError as error:
        return error.what if _relative(store.path, error.file) == file else None
    return None


def _origin(file: Path) -> tuple[str, str] | None:
    """The fingerprint and shard that a Parquet file says it is of; None where that cannot be read."""
    if file.name != m.TARGETS:
        return None
    try:
        metadata = pq.read_schema(file).metadata or {}
        return metadata[b"fingerprint"].decode(), metadata[b"shard"].decode()
    except (pa.ArrowException, OSError, ValueError, KeyError):
        return None


def _content_faults(store: Store, entry: m.Entry) -> Iterator[Named]:
    """What no checksum can tell: a writer that was wrong. The bytes are known to be those it wrote."""
    index, layout = entry.shard, store.layout
    prefix = f"shards/{m.shard_name(index)}/"
    rows = store.read_targets(index)
    if not rows.schema.equals(schema(layout)):
        yield prefix + m.TARGETS, f"its columns are not those of this layout: {rows.schema.names}"
        return
    if len(rows) != entry.rows:
        yield prefix + m.TARGETS, f"{len(rows)} rows, {m.ENTRY} says {entry.rows}"
    examples = entry.examples[1] - entry.examples[0] - len(entry.skipped)
    for what in row_faults(rows, layout=layout, examples=examples):
        yield prefix + m.TARGETS, what
    if layout.layers:
        yield from ((prefix + m.HIDDEN, what) for what in _hidden_faults(store, index, len(rows)))


def _hidden_faults(store: Store, index: int, rows: int) -> Iterator[str]:
    chunks = store.hidden_chunks(index)
    expected = (rows, len(store.layout.layers), store.layout.hidden_size)
    if chunks.shape != expected:
        yield f"shape {list(chunks.shape)}, expected {list(expected)}"
    for chunk in range(len(chunks)):
        if place := where_not_finite(np.asarray(chunks.read(chunk))):
            yield f"chunk {chunk}, row {chunks.rows(chunk)[place[0]]}: a value that is not finite"


def _relative(path: Path, file: Path) -> str:
    return file.relative_to(path).as_posix()
