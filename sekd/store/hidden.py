"""Hidden states ``[R, L, H]`` as one Zarr array per shard: at most 64 rows a chunk, uncompressed, with CRC-32C.

All chunks of a shard are in one file (Zarr's sharding codec), with an index of their offsets at its end. Zarr reads an
absent chunk as fill value, without an error: the fill value is NaN, and the readers here check that no chunk is absent.
bfloat16 is stored as its bits in uint16; the array's attribute ``dtype`` says so.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from sekd.errors import SekdError
from sekd.store.manifest import DamagedStoreError, check_size, read_checked
from sekd.store.schema import STORED_AS, Layout, round_mantissa

CHUNK_ROWS = 64
ARRAY_FILE = "c/0/0/0"
BFLOAT16_NAN = 0x7FC0
WIDER = {"float16": (65504, "bfloat16"), "bfloat16": (3.39e38, "float32")}  # largest value, a type with a larger one
ABSENT = np.uint64(2**64 - 1)
CRC_BYTES = 4


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """The bits of float32 values rounded to bfloat16 (nearest, ties to even), as uint16. Values must be no NaN."""
    return (round_mantissa(values, bits=7).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def as_float32(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Stored hidden states as float32, exactly; ``dtype`` is the layout's ``hidden_dtype``."""
    if dtype == "bfloat16":
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return stored.astype(np.float32)


def encode(hidden: np.ndarray, layout: Layout) -> np.ndarray:
    """Hidden states ``[R, L, H]`` as they are stored. uint16 means the bits of bfloat16.

    Raises:
        SekdError: another shape or type, a value that is not finite, or one that the layout's type cannot hold.
    """
    shape = (len(layout.layers), layout.hidden_size)
    if hidden.ndim != 3 or hidden.shape[1:] != shape:
        raise SekdError(f"hidden states have the shape [rows, {shape[0]}, {shape[1]}], not {list(hidden.shape)}")
    wanted = np.dtype(STORED_AS[layout.hidden_dtype])
    if hidden.dtype not in (wanted, np.dtype(np.float32)):
        raise SekdError(f"hidden states of {layout.hidden_dtype} come as {wanted} or float32, not {hidden.dtype}")
    if not_finite := where_not_finite(hidden):
        raise SekdError(f"hidden states are not finite: {_place(not_finite, layout)}")
    if hidden.dtype == wanted:
        return np.ascontiguousarray(hidden)
    with np.errstate(over="ignore"):
        stored = bfloat16_bits(hidden) if layout.hidden_dtype == "bfloat16" else hidden.astype(np.float16)
    if overflow := where_not_finite(stored):
        largest, wider = WIDER[layout.hidden_dtype]
        raise SekdError(
            f"a hidden state of {hidden[overflow]:.6g} at {_place(overflow, layout)} is beyond "
            f"{layout.hidden_dtype}'s {largest:g}: set hidden_dtype={wider}"
        )
    return stored


def where_not_finite(stored: np.ndarray) -> tuple[int, ...] | None:
    """The first place that is infinite or NaN; uint16 means the bits of bfloat16."""
    exponent = np.uint16(0x7F80)
    bad = (stored & exponent) == exponent if stored.dtype == np.uint16 else ~np.isfinite(stored)
    return tuple(np.argwhere(bad)[0].tolist()) if bad.any() else None


def _place(place: tuple[int, ...], layout: Layout) -> str:
    return f"row {place[0]}, layer {layout.layers[place[1]]}, dimension {place[2]}"


def chunk_rows(rows: int) -> int:
    """Rows per chunk: 64, or a little less if that pads the last chunk less, which is stored at full size."""
    if rows <= CHUNK_ROWS:
        return max(rows, 1)
    return min(range(CHUNK_ROWS, CHUNK_ROWS // 2, -1), key=lambda chunk: -rows % chunk)


def write_hidden(folder: Path, hidden: np.ndarray, layout: Layout, attributes: dict[str, Any]) -> None:
    """Write encoded hidden states ``[R, L, H]`` as a new Zarr array. The same values give the same bytes."""
    import zarr
    from zarr.codecs import Crc32cCodec

    rows, *shape = hidden.shape
    chunk = chunk_rows(rows)
    array = zarr.create_array(
        store=str(folder),
        shape=hidden.shape,
        dtype=STORED_AS[layout.hidden_dtype],
        chunks=(chunk, *shape),
        shards=(max(-(-rows // chunk), 1) * chunk, *shape),
        filters=None,
        compressors=[Crc32cCodec()],
        fill_value=BFLOAT16_NAN if layout.hidden_dtype == "bfloat16" else float("nan"),
        dimension_names=("row", "layer", "hidden"),
        attributes=attributes,
        zarr_format=3,
    )
    array[:] = hidden


@dataclass(frozen=True)
class HiddenChunks:
    """Reads one shard's hidden states chunk by chunk and checks each. Holds no open file, so it may be pickled.

    ``shape`` is ``[R, L, H]``; ``places`` ``[Z, 2]`` are the chunks' offsets and lengths in ``file``.
    """

    file: Path
    shape: tuple[int, int, int]
    chunk_rows: int
    dtype: np.dtype
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def rows(self, chunk: int) -> range:
        """The rows of one chunk, as positions in the shard."""
        return range(chunk * self.chunk_rows, min((chunk + 1) * self.chunk_rows, self.shape[0]))

    def read(self, chunk: int) -> np.ndarray:
        """One chunk ``[rows, L, H]`` as stored, writable; ``DamagedStoreError`` if a byte of it changed."""
        offset, length = self.places[chunk].tolist()
        buffer = np.empty(length, np.uint8)
        with self.file.open("rb", buffering=0) as stream:
            stream.seek(offset)
            got = stream.readinto(buffer.data)
        data = buffer[:-CRC_BYTES]
        if got != length or google_crc32c.value(data) != int(buffer[-CRC_BYTES:].view("<u4")[0]):
            raise DamagedStoreError(self.file, f"chunk {chunk} does not match its checksum")
        values = data.view(self.dtype).reshape(self.chunk_rows, *self.shape[1:])
        return values[: len(self.rows(chunk))]


def open_chunks(folder: Path, *, files: dict[str, dict[str, Any]]) -> HiddenChunks:
    """Open a Zarr array that ``write_hidden`` made; ``files`` are the entry's sizes and SHA-256 of its files.

    Raises ``DamagedStoreError`` when metadata or index changed, the file has another size, or a chunk is absent.
    """
    file = folder / ARRAY_FILE
    metadata = json.loads(read_checked(folder / "zarr.json", files["zarr.json"]))
    shape = tuple(metadata["shape"])
    chunk_shape = metadata["codecs"][0]["configuration"]["chunk_shape"]
    dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
    places = np.empty((0, 2), np.uint64)
    if shape[0]:
        check_size(file, files[ARRAY_FILE])
        places = _read_index(file, -(-shape[0] // chunk_shape[0]))
    if (absent := places[:, 0] == ABSENT).any():
        raise DamagedStoreError(file, f"chunk {int(np.argmax(absent))} is absent")
    return HiddenChunks(file=file, shape=shape, chunk_rows=chunk_shape[0], dtype=dtype, places=places)


def _read_index(file: Path, chunks: int) -> np.ndarray:
    """Offsets and lengths ``[Z, 2]``: little-endian uint64 at the end of the file, then a CRC-32C."""
    with file.open("rb") as stream:
        stream.seek(-(16 * chunks + CRC_BYTES), os.SEEK_END)
        raw = stream.read()
    if google_crc32c.value(raw[:-CRC_BYTES]) != int.from_bytes(raw[-CRC_BYTES:], "little"):
        raise DamagedStoreError(file, "its index of chunks does not match its checksum")
    return np.frombuffer(raw[:-CRC_BYTES], "<u8").reshape(chunks, 2)
