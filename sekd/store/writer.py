"""Writes one shard: built under a temporary name with its entry as the last file, synced, renamed once.

A crash at any moment leaves the shard absent or complete. What it leaves in ``tmp/`` has the shard's number in its name
and is deleted by the next run that locks that shard.
"""

import errno
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sekd.errors import SekdError
from sekd.files import remove, sync, sync_tree
from sekd.store import manifest as m
from sekd.store.hidden import encode, write_hidden
from sekd.store.schema import COLUMNS, normalise, row_faults

ZSTD_LEVEL = 9
# Names and token ids repeat, so a dictionary of them is smallest. A logprob's exponent repeats and its dropped mantissa
# bits are zero, so bytes of one significance compress best side by side.
SPLIT = ("topk_logprobs", "tail_logprob")


def write_shard(
    store: Path,
    manifest: m.Manifest,
    index: int,
    *,
    rows: pa.Table,
    hidden: np.ndarray | None,
    skipped: Mapping[str, str],
    provenance: Mapping[str, Any],
) -> None:
    """See ``Store.write_shard``."""
    rows = normalise(rows, manifest.layout)
    _refuse_impossible(manifest, index, rows, hidden, skipped)
    stored = None if hidden is None else encode(hidden, manifest.layout)
    building = m.temporary_name(store / "tmp", m.shard_name(index))
    try:
        entry = _build(building, manifest, index, rows=rows, hidden=stored, skipped=skipped)
        if not _is_already_published(store, manifest, entry):
            _publish(store, manifest, entry, building, provenance)
    except OSError as error:
        raise SekdError(
            f"shard {index} could not be written to {store}: {error.strerror or error}. Nothing of it was kept and "
            "finished shards are unchanged; free some space or repair the disk, then run again"
        ) from error
    finally:
        remove(building)


def write_targets(file: Any, rows: pa.Table, marks: Mapping[str, str]) -> None:
    """Write normalised rows to a path or buffer, with ``marks`` in the metadata. Equal rows give equal bytes."""

    def path(name: str) -> str:
        return f"{name}.list.element" if pa.types.is_nested(rows.schema.field(name).type) else name

    pq.write_table(
        rows.replace_schema_metadata(dict(marks)),
        file,
        row_group_size=max(len(rows), 1),
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_dictionary=[path(name) for name in COLUMNS if name not in SPLIT],
        column_encoding={path(name): "BYTE_STREAM_SPLIT" for name in SPLIT},
        write_statistics=False,
        write_page_checksum=True,
    )


def _refuse_impossible(
    manifest: m.Manifest, index: int, rows: pa.Table, hidden: np.ndarray | None, skipped: Mapping[str, str]
) -> None:
    expected = len(manifest.plan.examples(index)) - len(skipped)
    if faults := row_faults(rows, layout=manifest.layout, examples=expected):
        raise SekdError(f"shard {index} is not stored, its rows are impossible: {'; '.join(faults)}")
    if (hidden is None) != (not manifest.layout.layers):
        raise SekdError(f"shard {index}: hidden states are given if and only if the layout has layers")
    if hidden is not None and len(hidden) != len(rows):
        raise SekdError(f"shard {index} has {len(rows)} rows but hidden states of {len(hidden)}")


def _build(
    folder: Path,
    manifest: m.Manifest,
    index: int,
    *,
    rows: pa.Table,
    hidden: np.ndarray | None,
    skipped: Mapping[str, str],
) -> m.Entry:
    """Write and sync a whole shard in ``folder``, its entry last."""
    folder.mkdir()
    marks, layout = manifest.marks(index), manifest.layout
    write_targets(folder / m.TARGETS, rows, marks)
    if hidden is not None:
        attributes = {**marks, "dtype": layout.hidden_dtype, "layers": list(layout.layers)}
        write_hidden(folder / m.HIDDEN, hidden, layout, attributes)
    examples = manifest.plan.examples(index)
    entry = m.Entry(
        fingerprint=manifest.fingerprint,
        shard=index,
        examples=(examples.start, examples.stop),
        rows=len(rows),
        skipped=dict(skipped),
        files={name: m.file_digest(folder / name) for name in m.files_below(folder)},
    )
    (folder / m.ENTRY).write_text(m.seal(entry.to_json()))
    sync_tree(folder)
    return entry


def _is_already_published(store: Path, manifest: m.Manifest, entry: m.Entry) -> bool:
    """Whether this very shard is there already; differing content is an error."""
    if entry.shard not in m.listed(store):
        return False
    if m.read_entry(store, entry.shard, manifest) != entry:
        raise SekdError(
            f"shard {entry.shard} of {store} is already there with other content: two runs wrote it, and the "
            "teacher did not answer the same twice. Forget the shard with `python -m sekd.store.verify --forget`"
        )
    return True


def _publish(store: Path, manifest: m.Manifest, entry: m.Entry, building: Path, provenance: Mapping[str, Any]) -> None:
    folder = m.shard_folder(store, entry.shard)
    body = {**provenance, "written": datetime.now(UTC).isoformat(timespec="seconds")}
    temporary = m.temporary_name(store / "tmp", m.shard_name(entry.shard))
    m.write_sealed(m.provenance_file(store, entry.shard), body, temporary=temporary)
    try:
        building.rename(folder)
    except OSError as error:
        # Another process published it in between: a directory is never renamed onto one that holds files.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not _is_already_published(store, manifest, entry):
            raise
    sync(folder.parent)
