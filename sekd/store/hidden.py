"""Hidden states ``[R, L, H]`` as one Zarr array per shard: at most 64 rows a chunk, uncompressed, with CRC-32C.

All chunks of a shard are in one file (Zarr's sharding codec), with an index of their offsets at its end. Zarr reads an
absent chunk as fill value, without an error: the fill value is NaN, and the readers here check that no chunk is absent.
bfloat16 is stored as its bits in uint16; the array's attribute ``dtype`` says so.

The types of eight bits, float8_e4m3 (its bits in uint8) and int8, hold a row of a layer divided by the row's own scale.
The scales are float32 ``[R, L]`` in a second array; the readers here multiply, and give float32.
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
SCALE_FILE = "c/0/0"
FILLS = {"bfloat16": 0x7FC0, "float8_e4m3": 0x7F, "int8": -128}  # NaN; int8 has none, and -128 is never written
WIDER = {"float16": (65504, "bfloat16"), "bfloat16": (3.39e38, "float32")}  # largest value, a type with a larger one
ABSENT = np.uint64(2**64 - 1)
CRC_BYTES = 4
CODES = np.arange(256)
# What each of the 256 codes of float8_e4m3 means: sign, four bits of exponent, three of mantissa; no infinity.
E4M3 = np.where(CODES & 0x80, -1.0, 1.0) * np.ldexp(
    np.where(CODES & 0x78, 8, 0) + (CODES & 7), np.maximum(CODES >> 3 & 15, 1) - 10
)
E4M3[CODES & 0x7F == 0x7F] = np.nan
E4M3 = E4M3.astype(np.float32)
LARGEST = {"float8_e4m3": 448, "int8": 127}


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """The bits of float32 values rounded to bfloat16 (nearest, ties to even), as uint16. Values must be no NaN."""
    return (round_mantissa(values, bits=7).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def row_scales(hidden: np.ndarray, dtype: str) -> np.ndarray:
    """The scale of each row and layer [R, L]: the largest value of ``hidden`` [R, L, H] becomes the type's largest.

    Rounded up to 11 explicit bits of mantissa: a product with a code is then exact in float32, so that values that were
    read are encoded as the same bytes again.
    """
    largest_RL = np.abs(hidden).max(axis=2, initial=0) / np.float32(LARGEST[dtype])
    raw_RL = np.maximum(largest_RL, np.finfo(np.float32).tiny).view(np.uint32)
    return ((raw_RL + np.uint32(0xFFF)) & np.uint32(0xFFFFF000)).view(np.float32)


def e4m3_bits(values: np.ndarray) -> np.ndarray:
    """The bits of float32 values rounded to float8_e4m3 (nearest, ties to even), as uint8. At most 448 either way."""
    raw = round_mantissa(values, bits=3).view(np.uint32)
    sign, magnitude = (raw >> 24) & 0x80, (raw & 0x7FFFFFFF) >> 20
    small = np.abs(values) < 2.0**-6  # subnormal: in steps of 2**-9
    steps = np.rint(np.abs(np.where(small, values, 0)) * 2.0**9).astype(np.uint32)
    return (sign | np.where(small, steps, magnitude - (120 << 3))).astype(np.uint8)


def as_float32(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Hidden states as a store returns them, as float32, exactly; ``dtype`` is the layout's ``hidden_dtype``."""
    if dtype == "bfloat16":
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return stored.astype(np.float32)


def encode(hidden: np.ndarray, layout: Layout) -> np.ndarray:
    """Hidden states ``[R, L, H]`` as they are stored. uint16 means the bits of bfloat16; eight bits, divided by scales.

    Raises:
        SekdError: another shape or type, a value that is not finite, or one that the layout's type cannot hold.
    """
    shape = (len(layout.layers), layout.hidden_size)
    if hidden.ndim != 3 or hidden.shape[1:] != shape:
        raise SekdError(f"hidden states have the shape [rows, {shape[0]}, {shape[1]}], not {list(hidden.shape)}")
    scaled = layout.hidden_dtype in LARGEST
    wanted = np.dtype(np.float32 if scaled else STORED_AS[layout.hidden_dtype])
    if hidden.dtype not in (wanted, np.dtype(np.float32)):
        raise SekdError(f"hidden states of {layout.hidden_dtype} come as {wanted} or float32, not {hidden.dtype}")
    if not_finite := where_not_finite(hidden):
        raise SekdError(f"hidden states are not finite: {_place(not_finite, layout)}")
    if scaled:
        codes = hidden / row_scales(hidden, layout.hidden_dtype)[..., None]
        return e4m3_bits(codes) if layout.hidden_dtype == "float8_e4m3" else np.rint(codes).astype(np.int8)
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
    rows, *shape = hidden.shape
    chunk = chunk_rows(rows)
    whole = (max(-(-rows // chunk), 1) * chunk, *shape)
    fill = FILLS.get(layout.hidden_dtype, float("nan"))
    dtype = STORED_AS[layout.hidden_dtype]
    _write(folder, hidden, attributes, dtype=dtype, chunks=(chunk, *shape), shards=whole, fill_value=fill)


def write_scales(folder: Path, scale: np.ndarray, attributes: dict[str, Any]) -> None:
    """Write the rows' scales ``[R, L]`` as a new Zarr array of one chunk."""
    _write(folder, scale, attributes, dtype="<f4", chunks=(max(len(scale), 1), scale.shape[1]), fill_value=float("nan"))


def _write(folder: Path, values: np.ndarray, attributes: dict[str, Any], **options: Any) -> None:
    import zarr
    from zarr.codecs import Crc32cCodec

    array = zarr.create_array(
        store=str(folder),
        shape=values.shape,
        filters=None,
        compressors=[Crc32cCodec()],
        dimension_names=("row", "layer", "hidden")[: values.ndim],
        attributes=attributes,
        zarr_format=3,
        **options,
    )
    array[:] = values


@dataclass(frozen=True)
class HiddenChunks:
    """Reads one shard's hidden states chunk by chunk and checks each. Holds no open file, so it may be pickled.

    ``shape`` is ``[R, L, H]``; ``places`` ``[Z, 2]`` are the chunks' offsets and lengths in ``file``; ``scale_RL`` is
    there for the types of eight bits.
    """

    file: Path
    shape: tuple[int, int, int]
    chunk_rows: int
    stored_as: np.dtype
    places: np.ndarray
    scale_RL: np.ndarray | None = None

    @property
    def dtype(self) -> np.dtype:
        """The type of what ``read`` returns."""
        return self.stored_as if self.scale_RL is None else np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.places)

    def rows(self, chunk: int) -> range:
        """The rows of one chunk, as positions in the shard."""
        return range(chunk * self.chunk_rows, min((chunk + 1) * self.chunk_rows, self.shape[0]))

    def read(self, chunk: int) -> np.ndarray:
        """One chunk ``[rows, L, H]``, writable: as stored, or of eight bits float32; ``DamagedStoreError`` if a byte of
        it changed."""
        offset, length = self.places[chunk].tolist()
        buffer = np.empty(length, np.uint8)
        with self.file.open("rb", buffering=0) as stream:
            stream.seek(offset)
            got = stream.readinto(buffer.data)
        data = buffer[:-CRC_BYTES]
        if got != length or google_crc32c.value(data) != int(buffer[-CRC_BYTES:].view("<u4")[0]):
            raise DamagedStoreError(self.file, f"chunk {chunk} does not match its checksum")
        values = data.view(self.stored_as).reshape(self.chunk_rows, *self.shape[1:])[: len(self.rows(chunk))]
        if self.scale_RL is None:
            return values
        plain = E4M3.take(values) if values.dtype == np.uint8 else values
        return plain * self.scale_RL[self.rows(chunk), :, None]


def read_scales(file: Path, recorded: dict[str, Any] | None, layers: int) -> np.ndarray:
    """The scales ``[R, L]`` in the chunk that ``write_scales`` made; a shard without rows has none."""
    raw = read_checked(file, recorded)[:-CRC_BYTES] if recorded else b""
    return np.frombuffer(raw, "<f4").reshape(-1, layers)


def open_chunks(folder: Path, *, files: dict[str, dict[str, Any]], scale_RL: np.ndarray | None = None) -> HiddenChunks:
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
    return HiddenChunks(file, shape, chunk_shape[0], dtype, places, scale_RL)


def _read_index(file: Path, chunks: int) -> np.ndarray:
    """Offsets and lengths ``[Z, 2]``: little-endian uint64 at the end of the file, then a CRC-32C."""
    with file.open("rb") as stream:
        stream.seek(-(16 * chunks + CRC_BYTES), os.SEEK_END)
        raw = stream.read()
    if google_crc32c.value(raw[:-CRC_BYTES]) != int.from_bytes(raw[-CRC_BYTES:], "little"):
        raise DamagedStoreError(file, "its index of chunks does not match its checksum")
    return np.frombuffer(raw[:-CRC_BYTES], "<u8").reshape(chunks, 2)
