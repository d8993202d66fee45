"""Publishing one shard: built under a temporary name with its entry as the last file, synced, renamed once.

At any moment a crash leaves the shard either absent or whole. What it leaves under ``tmp/`` bears the shard's number
and is cleared by the next run that takes the lock for that shard.
"""

import errno
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sekd.errors import SekdError
from sekd.store import manifest as m
from sekd.store.files import file_digest, files_below, remove, seal, sync, sync_tree, temporary_name, write_sealed
from sekd.store.hidden import encode, write_hidden
from sekd.store.schema import FORMAT, normalise, row_faults
from sekd.store.targets import write_targets


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
    building = temporary_name(store / "tmp", m.shard_name(index))
    try:
        entry = _build(building, manifest, index, rows=rows, hidden=stored, skipped=skipped)
        if not _is_already_published(store, manifest, entry):
            _publish(store, manifest, entry, building, provenance)
    except OSError as error:
        raise SekdError(
            f"shard {index} could not be written to {store}: {error.strerror or error}. Nothing of it was kept and "
            "what was finished stays; make room or mend the disk, then run again"
        ) from error
    finally:
        remove(building)


def marks(manifest: m.Manifest, index: int) -> dict[str, str]:
    """What both files of a shard say of themselves, so that one from elsewhere is recognised."""
    return {"format": str(FORMAT), "fingerprint": manifest.fingerprint, "shard": str(index)}


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
    write_targets(folder / m.TARGETS, rows, marks(manifest, index))
    if hidden is not None:
        layout = manifest.layout
        attributes = {**marks(manifest, index), "dtype": layout.hidden_dtype, "layers": list(layout.layers)}
        write_hidden(folder / m.HIDDEN, hidden, layout, attributes)
    examples = manifest.plan.examples(index)
    entry = m.Entry(
        fingerprint=manifest.fingerprint,
        shard=index,
        examples=(examples.start, examples.stop),
        rows=len(rows),
        skipped=dict(skipped),
        files={name: file_digest(folder / name) for name in files_below(folder)},
    )
    (folder / m.ENTRY).write_text(seal(entry.to_json()))
    sync_tree(folder)
    return entry


def _is_already_published(store: Path, manifest: m.Manifest, entry: m.Entry) -> bool:
    """True where this very shard is there already; differing content is an error."""
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
    temporary = temporary_name(store / "tmp", m.shard_name(entry.shard))
    write_sealed(m.provenance_file(store, entry.shard), body, temporary=temporary)
    try:
        building.rename(folder)
    except OSError as error:
        # Another process came first by a moment: a directory is never renamed onto one that holds files.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not _is_already_published(store, manifest, entry):
            raise
    sync(folder.parent)
