"""The columns of a store's rows, their order, and the checks that rows must pass.

Shape legend: R rows of one shard, one per (example, step); K most likely tokens kept at the answer position; L captured
decoder layers; H hidden size; Z chunks of one shard's hidden states.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sekd.errors import SekdError

FORMAT = 1
MANTISSA_BITS = 16  # explicit bits kept of a logprob: relative error <= 2**-17 = 7.6e-6
MASS_TOLERANCE = 1e-3  # |sum of the kept probabilities + the tail - 1|: the error of half-precision logits
# Zarr has no bfloat16 and no float8: their bits.
STORED_AS = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "float8_e4m3": "|u1", "int8": "|i1"}

COLUMNS = {
    "sample": pa.string(),
    "image": pa.string(),
    "step": pa.int8(),
    "n_steps": pa.int8(),
    "depth": pa.int8(),
    "level": pa.string(),
    "options": pa.list_(pa.field("element", pa.string(), nullable=False)),
    "answer": pa.int8(),
    "truth": pa.int8(),
    "topk_ids": pa.int32(),
    "topk_logprobs": pa.float32(),
    "tail_logprob": pa.float32(),
}
PATH_LOGPROB = "path_logprob"  # float32, where ``Layout.path_logprob``: see ``sekd.descent``
TOPK = ("topk_ids", "topk_logprobs")  # fixed-size lists of K of the type above
QUESTION = ("image", "step", "depth", "level", "options", "answer")  # what the student is asked, and its label
CANDIDATES = (*TOPK, "tail_logprob")
SCORED = ("sample", "level", "options", "answer", "truth", *TOPK)  # what a pass's summary reads


@dataclass(frozen=True)
class Plan:
    """How a fixed, ordered list of examples is cut: shard ``i`` covers ``[i * shard_size, (i+1) * shard_size)``."""

    n_examples: int
    shard_size: int

    def __post_init__(self) -> None:
        if self.n_examples < 1 or self.shard_size < 1:
            raise SekdError(
                f"a store needs at least one example and one example a shard, not {self.n_examples} and "
                f"{self.shard_size}: check the dataset's split and the shard size"
            )

    @property
    def n_shards(self) -> int:
        return -(-self.n_examples // self.shard_size)

    def examples(self, index: int) -> range:
        """The examples of shard ``index``, as positions in the example list."""
        assert 0 <= index < self.n_shards, f"shard {index} of {self.n_shards}"
        return range(index * self.shard_size, min((index + 1) * self.shard_size, self.n_examples))


@dataclass(frozen=True)
class Layout:
    """What is stored at every answer position.

    ``layers`` are indices in transformers' ``hidden_states``: 0 is the embedding, the number of decoder layers is
    the last layer's output *before* the final norm. ``layers=()`` keeps no hidden states. ``path_logprob`` adds a
    column of that name: the path was found by descent, and this is the log of its probability down to the row's node.
    """

    k: int
    layers: Sequence[int]
    hidden_size: int
    hidden_dtype: str
    vocab_size: int
    letter_ids: Sequence[int]  # token ids of the option letters, in letter order
    path_logprob: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "letter_ids", tuple(self.letter_ids))
        if self.hidden_dtype not in STORED_AS:
            raise SekdError(f"hidden states are stored as one of {list(STORED_AS)}, not {self.hidden_dtype!r}")
        if not 1 <= self.k <= self.vocab_size:
            raise SekdError(f"k is between 1 and the vocabulary's {self.vocab_size} tokens, not {self.k}")
        if len(set(self.layers)) != len(self.layers):
            raise SekdError(f"every layer is captured once, not {list(self.layers)}")

    @property
    def columns(self) -> dict[str, pa.DataType]:
        return COLUMNS | ({PATH_LOGPROB: pa.float32()} if self.path_logprob else {})

    def to_json(self) -> dict[str, Any]:
        """Without ``path_logprob`` where it is false, as in every store from before it existed."""
        return {name: value for name, value in asdict(self).items() if value is not False}


def schema(layout: Layout) -> pa.Schema:
    """The columns of ``targets.parquet``; nothing is nullable."""

    def kind(name: str) -> pa.DataType:
        plain = layout.columns[name]
        return pa.list_(pa.field("element", plain, nullable=False), layout.k) if name in TOPK else plain

    return pa.schema([pa.field(name, kind(name), nullable=False) for name in layout.columns])


def build_rows(layout: Layout, columns: Mapping[str, Any]) -> pa.Table:
    """Rows as they are stored, from plain columns: sequences of length R, and ``topk_*`` as ``[R, K]``.

    Logprobs are rounded to ``MANTISSA_BITS``. Raises ``SekdError`` for a column that is missing, unknown, of another
    length, has nulls, or does not fit its type.
    """
    wanted = schema(layout)
    if odd := set(columns) ^ set(layout.columns):
        raise SekdError(f"rows need exactly the columns {list(layout.columns)}; missing or unknown: {sorted(odd)}")
    try:
        arrays = {field.name: _array(columns[field.name], field.type) for field in wanted}
        rows = pa.Table.from_arrays(list(arrays.values()), schema=wanted)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise SekdError(f"rows do not fit the store's schema: {error}") from error
    if nulls := [name for name, array in arrays.items() if array.null_count]:
        raise SekdError(f"the columns {nulls} have nulls; every row fills every column")
    return rows


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if kind == pa.float32():
        return pa.array(round_mantissa(values), type=kind)
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values, type=kind)
    flat_RK = np.asarray(values if len(values) else np.empty((0, kind.list_size)), kind.value_type.to_pandas_dtype())
    if flat_RK.ndim != 2 or flat_RK.shape[1] != kind.list_size:
        raise SekdError(f"top-k columns have the shape [rows, {kind.list_size}], not {list(flat_RK.shape)}")
    return pa.FixedSizeListArray.from_arrays(_array(flat_RK.ravel(), kind.value_type), type=kind)


def topk_matrix(rows: pa.Table, name: str) -> np.ndarray:
    """A top-k column as an array ``[R, K]``."""
    column = rows.column(name).combine_chunks()
    return np.asarray(column.flatten()).reshape(len(column), column.type.list_size)


def round_mantissa(values: Any, bits: int = MANTISSA_BITS) -> np.ndarray:
    """float32 rounded to the nearest value with so many explicit bits of mantissa: ties to even, order kept."""
    drop = np.uint32(23 - bits)
    raw = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    half = (np.uint32(1) << (drop - np.uint32(1))) - np.uint32(1)
    odd = (raw >> drop) & np.uint32(1)
    return ((raw + half + odd) >> drop << drop).view(np.float32)


def row_faults(rows: pa.Table, *, layout: Layout, examples: int) -> list[str]:
    """The failed checks of one shard's rows, as text. They must hold ``examples`` examples."""
    sample_R = np.asarray(rows["sample"].to_pylist(), dtype=object)
    starts = np.flatnonzero(np.r_[True, sample_R[1:] != sample_R[:-1]][: len(rows)])
    lengths = np.diff(np.r_[starts, len(rows)])
    step_R, n_steps_R, answer_R, truth_R = (
        np.asarray(rows[name]).astype(int) for name in ("step", "n_steps", "answer", "truth")
    )
    options_R = np.asarray(pc.list_value_length(rows["options"]))
    ids_RK, logprobs_RK = topk_matrix(rows, "topk_ids"), topk_matrix(rows, "topk_logprobs")
    tail_R = np.asarray(rows["tail_logprob"])
    sorted_RK = np.sort(ids_RK, axis=1)
    with np.errstate(invalid="ignore"):
        mass_R = np.exp(logprobs_RK, dtype=np.float64).sum(axis=1) + np.exp(tail_R, dtype=np.float64)
        checks = {
            "steps that are not 0 to n_steps - 1, each once and in order": (
                step_R != np.arange(len(rows)) - np.repeat(starts, lengths)
            )
            | (n_steps_R != np.repeat(lengths, lengths)),
            "an answer that is none of the options": (answer_R < 0) | (answer_R >= options_R),
            "a truth that is none of the options": (truth_R < -1) | (truth_R >= options_R),
            f"token ids outside the vocabulary of {layout.vocab_size}": (sorted_RK[:, 0] < 0)
            | (sorted_RK[:, -1] >= layout.vocab_size),
            "the same token id twice": (sorted_RK[:, 1:] == sorted_RK[:, :-1]).any(axis=1),
            "logprobs that are not finite": ~np.isfinite(logprobs_RK).all(axis=1),
            "a tail logprob that is NaN or positive": ~(tail_R <= 0),
            "logprobs that are not descending": (np.diff(logprobs_RK, axis=1) > 0).any(axis=1),
            "a tail that does not complete the kept mass to 1": ~(np.abs(mass_R - 1) <= MASS_TOLERANCE),
        }
    if layout.path_logprob:
        path_R = np.asarray(rows[PATH_LOGPROB])
        first_R = step_R == 0
        checks["a path logprob that is positive, not finite or rises along the path"] = ~(
            np.isfinite(path_R) & (path_R <= np.where(first_R, 0, np.roll(path_R, 1)))
        )
    faults = []
    if len(starts) != examples or len(set(sample_R)) != examples:
        faults.append(f"rows of {len(set(sample_R))} examples in {len(starts)} runs, expected {examples}")
    for what, wrong_R in checks.items():
        if wrong_R.any():
            row = int(np.argmax(wrong_R))
            detail = f" (mass {mass_R[row]:.6f})" if "mass" in what else ""
            faults.append(f"{what}: row {row}{detail} and {int(wrong_R.sum()) - 1} more")
    return faults
