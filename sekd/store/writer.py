"""Writes one shard: built under a temporary name with its entry as the last file, synced, renamed once.

A crash at any moment leaves the shard absent or complete. What it leaves in ``tmp/`` has the shard's number in its name
and is deleted by the next run that locks that shard.
"""

import errno
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sekd.errors import SekdError
from sekd.files import remove, sync, sync_tree, write_whole
from sekd.store import manifest as m
from sekd.store.hidden import encode, write_hidden
from sekd.store.schema import PATH_LOGPROB, row_faults, schema

if TYPE_CHECKING:
    from sekd.store.reader import Store

# Names and token ids repeat: dictionary encoding is smallest. A logprob's exponent repeats and its dropped mantissa
# bits are zero: byte-stream split compresses best.
SPLIT = ("topk_logprobs", "tail_logprob", PATH_LOGPROB)


def write_shard(
    store: "Store",
    index: int,
    rows: pa.Table,
    hidden: np.ndarray | None,
    provenance: Mapping[str, Any],
    *,
    skipped: Mapping[str, str] | None = None,
) -> None:
    """Write shard ``index``: complete, or not at all.

    Args:
        rows: those of ``build_rows``, in order of example, then step (0 to ``n_steps - 1``).
        hidden: ``[R, L, H]`` in the same order; float32 (rounded to the layout's type), the layout's type, or
            uint16 for the bits of bfloat16. None if and only if the layout has no layers.
        provenance: JSON-able; kept beside the data, never part of it.
        skipped: id of every example of this shard that has no rows, and why.

    Raises:
        SekdError: impossible rows or hidden states, a full disk, or a shard that is already there with other
            content. The store is as it was before.
    """
    layout, examples, skipped = store.layout, store.plan.examples(index), dict(skipped or {})
    if not rows.schema.equals(schema(layout)):
        raise SekdError(f"shard {index}: rows are those of build_rows, not of {rows.schema.names}")
    rows = rows.combine_chunks()
    if faults := row_faults(rows, layout=layout, examples=len(examples) - len(skipped)):
        raise SekdError(f"shard {index} is not stored, its rows are impossible: {'; '.join(faults)}")
    if (hidden is None) != (not layout.layers):
        raise SekdError(f"shard {index}: hidden states are given if and only if the layout has layers")
    if hidden is not None and len(hidden) != len(rows):
        raise SekdError(f"shard {index} has {len(rows)} rows but hidden states of {len(hidden)}")
    stored = None if hidden is None else encode(hidden, layout)
    building = m.temporary_name(store.path / "tmp", m.shard_name(index))
    marks = store.manifest.marks(index)
    try:
        building.mkdir()
        write_targets(building / m.TARGETS, rows, marks)
        if stored is not None:
            attributes = {**marks, "dtype": layout.hidden_dtype, "layers": list(layout.layers)}
            write_hidden(building / m.HIDDEN, stored, layout, attributes)
        files = {name: m.file_digest(building / name) for name in m.files_below(building)}
        bounds = [examples.start, examples.stop]
        entry = m.Entry(store.fingerprint, index, bounds, rows=len(rows), skipped=skipped, files=files)
        (building / m.ENTRY).write_text(m.seal(vars(entry)))
        sync_tree(building)
        if not _is_published(store, entry):
            _publish(store, entry, building, provenance)
    except OSError as error:
        raise SekdError(
            f"shard {index} could not be written to {store.path}: {error.strerror or error}. Nothing of it was kept "
            "and finished shards are unchanged; free some space or repair the disk, then run again"
        ) from error
    finally:
        remove(building)


def write_targets(file: Any, rows: pa.Table, marks: Mapping[str, str]) -> None:
    """Write rows to a path or buffer, with ``marks`` in the metadata. Equal rows give equal bytes."""

    def path(name: str) -> str:
        return f"{name}.list.element" if pa.types.is_nested(rows.schema.field(name).type) else name

    pq.write_table(
        rows.replace_schema_metadata(dict(marks)),
        file,
        row_group_size=max(len(rows), 1),
        compression="zstd",
        compression_level=9,
        use_dictionary=[path(name) for name in rows.column_names if name not in SPLIT],
        column_encoding={path(name): "BYTE_STREAM_SPLIT" for name in SPLIT if name in rows.column_names},
        write_statistics=False,
        write_page_checksum=True,
    )


def _is_published(store: "Store", entry: m.Entry) -> bool:
    """Whether this very shard is there already; differing content is an error."""
    if entry.shard not in m.listed(store.path):
        return False
    if store.entry(entry.shard) != entry:
        raise SekdError(
            f"shard {entry.shard} of {store.path} is already there with other content: two runs wrote it, and the "
            "teacher did not answer the same twice. Forget the shard with `python -m sekd.store.verify --forget`"
        )
    return True


def _publish(store: "Store", entry: m.Entry, building: Path, provenance: Mapping[str, Any]) -> None:
    folder = m.shard_folder(store.path, entry.shard)
    body = {**provenance, "written": datetime.now(UTC).isoformat(timespec="seconds")}
    temporary = m.temporary_name(store.path / "tmp", m.shard_name(entry.shard))
    write_whole(m.provenance_file(store.path, entry.shard), m.seal(body), temporary)
    try:
        building.rename(folder)
    except OSError as error:
        # Another process published it in between: a directory is never renamed onto one that holds files.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not _is_published(store, entry):
            raise
    sync(folder.parent)
