"""The columns of a store's rows, their order, and the checks that rows must pass.

Shape legend:
    R  rows of one shard, one per (example, step), in order of example, then step
    K  most likely tokens kept at the answer position (``Layout.k``)
    L  captured decoder layers (``len(Layout.layers)``)
    H  hidden size
    Z  chunks of one shard's hidden states
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sekd.errors import SekdError

FORMAT = 1
MANTISSA_BITS = 16  # explicit bits kept of a logprob: relative error <= 2**-17 = 7.6e-6
MASS_TOLERANCE = 1e-3  # |sum of the kept probabilities + the tail - 1|: what half-precision logits leave
HIDDEN_DTYPES = ("float32", "float16", "bfloat16")

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
                f"a store needs at least one example and one example a shard, not {self.n_examples} "
                f"and {self.shard_size}: check the dataset's split and the shard size"
            )

    @property
    def n_shards(self) -> int:
        return -(-self.n_examples // self.shard_size)

    def examples(self, index: int) -> range:
        """The examples of shard ``index``, as positions in the example list."""
        assert 0 <= index < self.n_shards, f"shard {index} of {self.n_shards}"
        start = index * self.shard_size
        return range(start, min(start + self.shard_size, self.n_examples))


@dataclass(frozen=True)
class Layout:
    """What is kept at every answer position.

    ``layers`` are indices in transformers' ``hidden_states``: 0 is the embedding, the number of decoder layers is
    the last layer's output *before* the final norm. ``layers=()`` keeps no hidden states. ``letter_ids`` are the
    token ids of the option letters, in letter order.
    """

    k: int
    layers: Sequence[int]
    hidden_size: int
    hidden_dtype: str
    vocab_size: int
    letter_ids: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "letter_ids", tuple(self.letter_ids))
        if self.hidden_dtype not in HIDDEN_DTYPES:
            raise SekdError(f"hidden states are stored as one of {HIDDEN_DTYPES}, not {self.hidden_dtype!r}")
        if not 1 <= self.k <= self.vocab_size:
            raise SekdError(f"k is between 1 and the vocabulary's {self.vocab_size} tokens, not {self.k}")
        if len(set(self.layers)) != len(self.layers):
            raise SekdError(f"every layer is captured once, not {list(self.layers)}")

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "layers": list(self.layers), "letter_ids": list(self.letter_ids)}


def schema(layout: Layout) -> pa.Schema:
    """The columns of ``targets.parquet``; nothing is nullable."""

    def kind(name: str) -> pa.DataType:
        plain = COLUMNS[name]
        return pa.list_(pa.field("element", plain, nullable=False), layout.k) if name in TOPK else plain

    return pa.schema([pa.field(name, kind(name), nullable=False) for name in COLUMNS])


def build_rows(layout: Layout, columns: Mapping[str, Any]) -> pa.Table:
    """Rows from plain columns: sequences of length R, and ``topk_*`` as ``[R, K]`` arrays or R arrays ``[K]``.

    Raises:
        SekdError: a column is missing, unknown, of another length, or does not fit its type.
    """
    _check_names(columns)
    try:
        return pa.Table.from_arrays(
            [_array(columns[field.name], field.type) for field in schema(layout)], schema=schema(layout)
        )
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise SekdError(f"rows do not fit the store's schema: {error}") from error


def _check_names(names: Mapping[str, Any] | Sequence[str]) -> None:
    if set(names) != set(COLUMNS):
        odd = sorted(set(names) ^ set(COLUMNS))
        raise SekdError(f"rows need exactly the columns {list(COLUMNS)}; missing or unknown: {odd}")


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values, type=kind)
    flat_RK = np.asarray(values if len(values) else np.empty((0, kind.list_size)), kind.value_type.to_pandas_dtype())
    if flat_RK.ndim != 2 or flat_RK.shape[1] != kind.list_size:
        raise SekdError(f"top-k columns have the shape [rows, {kind.list_size}], not {list(flat_RK.shape)}")
    return pa.FixedSizeListArray.from_arrays(pa.array(flat_RK.ravel()), type=kind)


def normalise(rows: pa.Table, layout: Layout) -> pa.Table:
    """The rows as they are stored: one Arrow chunk, the schema's order and types, logprobs rounded.

    Equal rows give equal bytes on disk, however the table was put together.

    Raises:
        SekdError: a column is missing, unknown, has nulls, or does not fit its type.
    """
    _check_names(rows.column_names)
    for name in COLUMNS:
        if nulls := rows.column(name).null_count:
            raise SekdError(f"column {name!r} has {nulls} nulls; every row fills every column")
    wanted = schema(layout)
    try:
        rows = rows.select(wanted.names).cast(wanted).combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError) as error:
        raise SekdError(f"rows do not fit the store's schema: {error}") from error
    for name, values in (("topk_logprobs", topk_matrix(rows, "topk_logprobs")), ("tail_logprob", rows["tail_logprob"])):
        field = wanted.field(name)
        rounded = _array(round_mantissa(np.asarray(values)), field.type)
        rows = rows.set_column(wanted.get_field_index(name), field, rounded)
    return rows


def topk_matrix(rows: pa.Table, name: str) -> np.ndarray:
    """A top-k column as an array ``[R, K]``."""
    column = rows.column(name).combine_chunks()
    return np.asarray(column.flatten()).reshape(len(column), column.type.list_size)


def round_mantissa(values: np.ndarray) -> np.ndarray:
    """float32 rounded to the nearest value with ``MANTISSA_BITS`` explicit bits: ties to even, order kept."""
    drop = 23 - MANTISSA_BITS
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    half = np.uint32((1 << (drop - 1)) - 1)
    odd = (bits >> np.uint32(drop)) & np.uint32(1)
    return ((bits + half + odd) >> np.uint32(drop) << np.uint32(drop)).view(np.float32)


def row_faults(rows: pa.Table, *, layout: Layout, examples: int) -> list[str]:
    """Every check that the rows of one shard fail, in words.

    ``examples`` is how many examples the rows must hold (those of the plan less those skipped).
    """
    faults = list(_order_faults(rows, examples=examples))
    if len(rows):
        faults += _answer_faults(rows)
        faults += _distribution_faults(rows, layout)
    return faults


def _order_faults(rows: pa.Table, *, examples: int) -> Iterator[str]:
    sample = np.asarray(rows.column("sample").to_pylist(), dtype=object)
    step, n_steps = (np.asarray(rows.column(name)).astype(int) for name in ("step", "n_steps"))
    starts = np.flatnonzero(np.r_[True, sample[1:] != sample[:-1]]) if len(sample) else np.empty(0, int)
    lengths = np.diff(np.r_[starts, len(sample)])
    if len(starts) != examples or len(set(sample[starts])) != examples:
        yield f"rows of {len(set(sample))} examples in {len(starts)} runs, expected {examples}"
        return
    expected_step = np.concatenate([np.arange(n) for n in lengths] or [np.empty(0, int)])
    wrong = (step != expected_step) | (n_steps != np.repeat(lengths, lengths))
    if wrong.any():
        yield f"steps of {sample[wrong][0]!r} are not 0 to n_steps - 1, each once and in order"


def _answer_faults(rows: pa.Table) -> Iterator[str]:
    n_options = np.asarray([len(options) for options in rows.column("options").to_pylist()])
    answer, truth = (np.asarray(rows.column(name)).astype(int) for name in ("answer", "truth"))
    for name, lowest, values in (("answer", 0, answer), ("truth", -1, truth)):
        wrong = (values < lowest) | (values >= n_options)
        if wrong.any():
            row = int(np.argmax(wrong))
            yield f"{name} {values[row]} at row {row} is none of its {n_options[row]} options"


def _distribution_faults(rows: pa.Table, layout: Layout) -> Iterator[str]:
    ids_RK, logprobs_RK = topk_matrix(rows, "topk_ids"), topk_matrix(rows, "topk_logprobs")
    tail_R = np.asarray(rows.column("tail_logprob"))
    sorted_RK = np.sort(ids_RK, axis=1)
    with np.errstate(invalid="ignore"):
        mass_R = np.exp(logprobs_RK, dtype=np.float64).sum(axis=1) + np.exp(tail_R, dtype=np.float64)
        checks = {
            f"token ids outside the vocabulary of {layout.vocab_size}": (sorted_RK[:, 0] < 0)
            | (sorted_RK[:, -1] >= layout.vocab_size),
            "the same token id twice": (sorted_RK[:, 1:] == sorted_RK[:, :-1]).any(axis=1),
            "logprobs that are not finite": ~np.isfinite(logprobs_RK).all(axis=1),
            "a tail logprob that is NaN or positive": ~(tail_R <= 0),
            "logprobs that are not descending": (np.diff(logprobs_RK, axis=1) > 0).any(axis=1),
            "a tail that does not complete the kept mass to 1": ~(np.abs(mass_R - 1) <= MASS_TOLERANCE),
        }
    for what, wrong_R in checks.items():
        if wrong_R.any():
            row = int(np.argmax(wrong_R))
            detail = f" (mass {mass_R[row]:.6f})" if "mass" in what else ""
            yield f"{what}: row {row}{detail} and {int(wrong_R.sum()) - 1} more"
