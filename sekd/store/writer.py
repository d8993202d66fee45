"""Publishing one shard: built under a temporary name, synced, renamed once; its manifest entry comes last.

At any moment a crash leaves the shard either absent or whole. What a crash leaves under ``tmp/`` bears the shard's
number and is cleared by whoever writes that shard next.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sekd.errors import SekdError
from sekd.store import manifest as m
from sekd.store.files import file_digest, files_below, remove, sync, sync_tree, temporary_name, write_sealed
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
    tmp = store / "tmp"
    for stale in tmp.glob(f"{m.shard_name(index)}.*"):
        remove(stale)
    building = temporary_name(tmp, m.shard_name(index))
    try:
        files = _build(building, manifest, index, rows, stored)
        examples = manifest.plan.examples(index)
        entry = m.Entry(
            fingerprint=manifest.fingerprint,
            shard=index,
            examples=(examples.start, examples.stop),
            rows=len(rows),
            skipped=dict(skipped),
            files=files,
        )
        if not _is_already_published(store, manifest, entry):
            _publish(store, entry, building, provenance)
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
    folder: Path, manifest: m.Manifest, index: int, rows: pa.Table, hidden: np.ndarray | None
) -> dict[str, dict[str, Any]]:
    """Write and sync the shard's files below ``folder``; returns their sizes and digests."""
    folder.mkdir()
    write_targets(folder / m.TARGETS, rows, marks(manifest, index))
    if hidden is not None:
        layout = manifest.layout
        attributes = {**marks(manifest, index), "dtype": layout.hidden_dtype, "layers": list(layout.layers)}
        write_hidden(folder / m.HIDDEN, hidden, layout, attributes)
    sync_tree(folder)
    return {name: file_digest(folder / name) for name in files_below(folder)}


def _is_already_published(store: Path, manifest: m.Manifest, entry: m.Entry) -> bool:
    """True where another process published this very shard meanwhile; differing content is an error."""
    if not m.entry_file(store, entry.shard).exists():
        return False
    if m.read_entry(store, entry.shard, manifest) != entry:
        raise SekdError(
            f"shard {entry.shard} of {store} is already there with other content: two runs wrote it, and the "
            "teacher did not answer the same twice. Forget the shard with `python -m sekd.store.verify --forget`"
        )
    return True


def _publish(store: Path, entry: m.Entry, building: Path, provenance: Mapping[str, Any]) -> None:
    tmp, name, folder = store / "tmp", m.shard_name(entry.shard), m.shard_folder(store, entry.shard)
    if folder.exists():  # renamed but never listed: a crash came between
        orphan = temporary_name(tmp, name)
        folder.rename(orphan)
        remove(orphan)
    building.rename(folder)
    sync(folder.parent)
    body = {**provenance, "written": datetime.now(UTC).isoformat(timespec="seconds")}
    write_sealed(m.provenance_file(store, entry.shard), body, temporary=temporary_name(tmp, name))
    write_sealed(m.entry_file(store, entry.shard), entry.to_json(), temporary=temporary_name(tmp, name))
