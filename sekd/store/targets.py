"""One shard's rows as Parquet: which encoding each column takes, and reads that notice every changed byte."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sekd.store.files import DamagedStoreError

# Candidate tokens come from a small pool, so a dictionary of ids is smallest; a logprob's exponent repeats and its
# dropped mantissa bits are zeros, so its bytes compress when those of one significance lie together.
SPLIT_COLUMNS = ("topk_logprobs.list.element", "tail_logprob")
DICTIONARY_COLUMNS = (
    "sample",
    "image",
    "step",
    "n_steps",
    "depth",
    "level",
    "options.list.element",
    "answer",
    "truth",
    "topk_ids.list.element",
)
ZSTD_LEVEL = 9


def write_targets(file: Path, rows: pa.Table, marks: Mapping[str, str]) -> None:
    """Write normalised rows, with ``marks`` in the file's metadata. The same rows give the same bytes."""
    pq.write_table(
        rows.replace_schema_metadata(dict(marks)),
        file,
        row_group_size=max(len(rows), 1),
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_dictionary=list(DICTIONARY_COLUMNS),
        column_encoding=dict.fromkeys(SPLIT_COLUMNS, "BYTE_STREAM_SPLIT"),
        write_statistics=False,
        write_page_checksum=True,
    )


def read_targets(
    file: Path, *, recorded: Mapping[str, Any], marks: Mapping[str, str], columns: Sequence[str] | None
) -> pa.Table:
    """Rows of a file whose size, SHA-256 and marks are as ``recorded`` in the shard's entry.

    Raises:
        DamagedStoreError: missing, changed in any byte, or marked for another store or shard.
    """
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        raise DamagedStoreError(file, "missing") from None
    if len(raw) != recorded["bytes"]:
        raise DamagedStoreError(file, f"{len(raw)} bytes long, its shard.json says {recorded['bytes']}")
    if hashlib.sha256(raw).hexdigest() != recorded["sha256"]:
        raise DamagedStoreError(file, "does not match its checksum in shard.json")
    parquet = pq.ParquetFile(pa.BufferReader(raw), page_checksum_verification=True)
    written = {key.decode(): value.decode() for key, value in (parquet.schema_arrow.metadata or {}).items()}
    if written != dict(marks):
        raise DamagedStoreError(file, f"marked {written}, expected {dict(marks)}")
    return parquet.read(columns=None if columns is None else list(columns)).replace_schema_metadata(None)
