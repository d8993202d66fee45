"""The shape of a store: what one row says, in which order rows lie, and what makes a row impossible.

Shape legend:
    R  rows of one shard, one a (example, step), in order of example, then step
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
SOFT_COLUMNS = ("topk_ids", "topk_logprobs", "tail_logprob")


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
        fields = asdict(self)
        return {**fields, "layers": list(self.layers), "letter_ids": list(self.letter_ids)}


def schema(layout: Layout) -> pa.Schema:
    """The columns of ``targets.parquet``; nothing is nullable."""

    def column(name: str, kind: pa.DataType) -> pa.Field:
        return pa.field(name, kind, nullable=False)

    def topk(kind: pa.DataType) -> pa.DataType:
        return pa.list_(column("element", kind), layout.k)

    return pa.schema(
        [
            column("sample", pa.string()),
            column("image", pa.string()),
            column("step", pa.int8()),
            column("n_steps", pa.int8()),
            column("depth", pa.int8()),
            column("level", pa.string()),
            column("options", pa.list_(column("element", pa.string()))),
            column("answer", pa.int8()),
            column("truth", pa.int8()),
            column("topk_ids", topk(pa.int32())),
            column("topk_logprobs", topk(pa.float32())),
            column("tail_logprob", pa.float32()),
        ]
    )


def build_rows(layout: Layout, columns: Mapping[str, Any]) -> pa.Table:
    """Rows from plain columns: sequences of length R, and ``topk_*`` as ``[R, K]`` arrays.

    Raises:
        SekdError: a column is missing, unknown, of another length, or does not fit its type.
    """
    wanted = schema(layout)
    if set(columns) != set(wanted.names):
        odd = sorted(set(columns) ^ set(wanted.names))
        raise SekdError(f"rows need exactly the columns {wanted.names}; missing or unknown: {odd}")
    try:
        return pa.Table.from_arrays([_array(columns[f.name], f.type) for f in wanted], schema=wanted)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise SekdError(f"rows do not fit the store's schema: {error}") from error


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values, type=kind)
    flat_RK = np.asarray(values, dtype=kind.value_type.to_pandas_dtype())
    if flat_RK.ndim != 2 or flat_RK.shape[1] != kind.list_size:
        raise SekdError(f"top-k columns have the shape [rows, {kind.list_size}], not {list(flat_RK.shape)}")
    return pa.FixedSizeListArray.from_arrays(pa.array(flat_RK.ravel()), type=kind)


def normalise(rows: pa.Table, layout: Layout) -> pa.Table:
    """The rows as they are stored: one chunk, the schema's order and types, logprobs rounded.

    Equal rows give equal bytes on disk, however the table was put together.
    """
    columns = {name: rows.column(name) for name in rows.column_names}
    for name in set(columns) & {"topk_ids", "topk_logprobs"}:
        columns[name] = topk_matrix(rows, name)
    for name in set(columns) & {"topk_logprobs", "tail_logprob"}:
        columns[name] = round_mantissa(np.asarray(columns[name], dtype=np.float32))
    for name, values in columns.items():
        if isinstance(values, pa.ChunkedArray):
            if values.null_count:
                raise SekdError(f"column {name!r} has {values.null_count} nulls; every row fills every column")
            columns[name] = values.to_pylist() if name == "options" else values.combine_chunks()
    return build_rows(layout, columns)


def topk_matrix(rows: pa.Table, name: str) -> np.ndarray:
    """A top-k column as an array ``[R, K]``."""
    column = rows.column(name)
    flat = np.concatenate([np.asarray(chunk.flatten()) for chunk in column.chunks] or [np.empty(0)])
    return flat.reshape(len(column), -1) if len(column) else flat.reshape(0, column.type.list_size)


def round_mantissa(values: np.ndarray) -> np.ndarray:
    """float32 rounded to the nearest value with ``MANTISSA_BITS`` explicit bits: ties to even, order kept."""
    drop = 23 - MANTISSA_BITS
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    half = np.uint32((1 << (drop - 1)) - 1)
    odd = (bits >> np.uint32(drop)) & np.uint32(1)
    return ((bits + half + odd) >> np.uint32(drop) << np.uint32(drop)).view(np.float32)


def row_faults(rows: pa.Table, *, layout: Layout, examples: int) -> list[str]:
    """What cannot be true of one shard's rows, in words; empty where all is well.

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
