"""Rows are stored as they were meant, and rows that cannot be true are refused."""

import io
import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from store_passes import data_bytes, distributions, layout, new_store, shard

from sekd.errors import SekdError
from sekd.store import Layout, Plan, build_rows, schema
from sekd.store.schema import round_mantissa, topk_matrix
from sekd.store.store import write_targets

FLOATS = st.floats(
    width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False, max_value=0, min_value=-(2.0**100)
)


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=FLOATS))
def test_rounded_logprobs_stay_within_a_hundred_thousandth_and_in_order(values):
    rounded = round_mantissa(values)
    np.testing.assert_allclose(rounded, values, rtol=2**-17 * 1.0001)
    assert (np.diff(round_mantissa(np.sort(values)[::-1])) <= 0).all()
    np.testing.assert_array_equal(round_mantissa(rounded), rounded)


def test_rounding_keeps_an_infinite_tail():
    assert round_mantissa(np.array([-np.inf, 0.0], np.float32)).tolist() == [-np.inf, 0.0]


@pytest.fixture
def store(tmp_path):
    return new_store(tmp_path)


def test_equal_rows_give_equal_bytes_however_they_were_put_together(store, tmp_path):
    rows, hidden = shard(store, 1)
    pieces = pa.concat_tables([rows[:5], rows[5:6], rows[6:]])
    reordered = build_rows(layout(), dict(reversed(plain(rows).items())))
    padded = pa.concat_tables([rows[:3], rows]).slice(3)
    stores = [new_store(tmp_path / name) for name in ("a", "b", "c", "d")]
    for other, table in zip(stores, (rows, pieces, reordered, padded), strict=True):
        other.write_shard(1, table, hidden, {})
    for one, other in itertools.pairwise(stores):
        assert data_bytes(one) == data_bytes(other)


def plain(rows: pa.Table) -> dict:
    return {name: topk_matrix(rows, name) if "topk" in name else rows[name].to_pylist() for name in rows.column_names}


def change(rows: pa.Table, name: str, values) -> pa.Table:
    columns = plain(rows)
    return build_rows(layout(), {**columns, name: values(columns[name])})


def at(row: int, value):
    def put(column):
        column = np.array(column) if isinstance(column, np.ndarray) else list(column)
        column[row] = value(column[row]) if callable(value) else value
        return column

    return put


IMPOSSIBLE = {
    "step twice": ("step", at(1, 0), "are not 0 to n_steps - 1"),
    "wrong number of steps": ("n_steps", at(0, 5), "are not 0 to n_steps - 1"),
    "example of another name": ("sample", at(1, "someone else"), "rows of 5 examples in 5 runs, expected 4"),
    "example cut in two": ("sample", lambda names: [*names[1:], names[0]], "rows of 4 examples in 5 runs, expected 4"),
    "answer beyond the options": ("answer", at(2, 4), "an answer that is none of the options: row 2"),
    "no answer": ("answer", at(2, -1), "an answer that is none of the options: row 2"),
    "truth beyond the options": ("truth", at(2, 4), "a truth that is none of the options: row 2"),
    "id beyond the vocabulary": (
        "topk_ids",
        at(3, lambda ids: [500, *ids[1:]]),
        "outside the vocabulary of 500: row 3",
    ),
    "id twice": ("topk_ids", at(3, lambda ids: [*ids[:-1], ids[0]]), "the same token id twice: row 3"),
    "not finite": ("topk_logprobs", at(3, lambda p: [*p[:-1], -np.inf]), "not finite: row 3"),
    "ascending": ("topk_logprobs", at(3, lambda p: p[::-1]), "not descending: row 3"),
    "tail too heavy": ("tail_logprob", at(3, -0.001), "does not complete the kept mass to 1: row 3"),
    "tail not a number": ("tail_logprob", at(3, np.nan), "tail logprob that is NaN or positive: row 3"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_rows_that_cannot_be_true_are_refused(store, name):
    column, values, message = IMPOSSIBLE[name]
    rows, hidden = shard(store, 0)
    with pytest.raises(SekdError, match=message):
        store.write_shard(0, change(rows, column, values), hidden, {})
    assert store.missing() == [0, 1, 2]


def test_verify_names_rows_that_a_wrong_writer_let_through(store, monkeypatch):
    from sekd.store import store as module
    from sekd.store.verify import verify

    monkeypatch.setattr(module, "row_faults", lambda *_, **__: [])
    monkeypatch.setattr(module, "encode", lambda hidden, _: hidden.astype(np.uint16) | 0x7F80)
    rows, hidden = shard(store, 0)
    store.write_shard(0, change(rows, *IMPOSSIBLE["ascending"][:2]), hidden, {})
    named = {fault.file.split("/")[-1]: fault.what for fault in verify(store) if fault.shard == 0}
    assert "not descending" in named["targets.parquet"]
    assert "not finite" in named["hidden.zarr"]


def test_columns_are_all_there_and_no_others(store):
    rows, hidden = shard(store, 0)
    for odd in (rows.drop(["answer"]), rows.append_column("more", rows["answer"])):
        with pytest.raises(SekdError, match="missing or unknown"):
            build_rows(layout(), plain(odd))
        with pytest.raises(SekdError, match="rows are those of build_rows"):
            store.write_shard(0, odd, hidden, {})


def test_hidden_states_come_exactly_where_the_layout_has_layers(store):
    rows, hidden = shard(store, 0)
    for wrong in (None, hidden[1:]):
        with pytest.raises(SekdError, match="hidden states"):
            store.write_shard(0, rows, wrong, {})


def test_nulls_are_refused(store):
    columns = plain(shard(store, 0)[0])
    with pytest.raises(SekdError, match=r"\['answer'\] have nulls"):
        build_rows(layout(), {**columns, "answer": [None, *columns["answer"][1:]]})


@pytest.mark.parametrize("bad", [{"k": 0}, {"k": 501}, {"hidden_dtype": "int4"}, {"layers": (1, 1)}])
def test_a_layout_that_makes_no_sense_is_refused(bad):
    with pytest.raises(SekdError):
        layout(**bad)


def test_a_plan_covers_every_example_once():
    for n, size in itertools.product(range(1, 20), range(1, 22)):
        plan = Plan(n_examples=n, shard_size=size)
        covered = [example for index in range(plan.n_shards) for example in plan.examples(index)]
        assert covered == list(range(n))
    with pytest.raises(SekdError):
        Plan(n_examples=0, shard_size=4)


def test_soft_targets_take_at_most_110_bytes_a_step():
    """A vocabulary of 152k with a Zipf-like prior, which each level and each image bends: see artifacts/README.md."""
    rng, k, vocab, rows = np.random.default_rng(0), 32, 151_936, 1000
    shape = Layout(k=k, layers=(), hidden_size=8, hidden_dtype="bfloat16", vocab_size=vocab, letter_ids=(1, 2, 3, 4))
    prior = rng.permutation(-np.log(np.arange(1, vocab + 1)))
    levels = prior + rng.standard_normal((5, vocab))
    # An image bends the order of candidates, but lifts nothing from far below. Tokens 0 to 3 are the letters.
    near = np.argsort(-levels[:, 4:], axis=1)[:, :8000] + 4
    near = np.hstack([np.tile(range(4), (5, 1)), near])
    ids, logprobs, tails = [], [], []
    for row in range(rows):
        pool = near[row % 5]
        logits = levels[row % 5][pool] + rng.standard_normal(len(pool))
        logits[:4] = logits.max() + 6 + 4 * rng.random(4)
        logits -= np.log(np.exp(logits).sum())
        top = np.argsort(-logits)[:k]
        ids.append(pool[top])
        logprobs.append(logits[top])
        tails.append(np.log1p(-np.exp(logits[top]).sum()))
    columns = {"topk_ids": ids, "topk_logprobs": logprobs, "tail_logprob": np.float32(tails)}
    rest = {
        f.name: [""] * rows if f.type == pa.string() else [0] * rows for f in schema(shape) if f.name not in columns
    }
    table = build_rows(shape, {**rest, "options": [[""]] * rows, **columns})
    buffer = io.BytesIO()
    write_targets(buffer, table, {})
    group = pq.read_metadata(buffer).row_group(0)
    sizes = {group.column(i).path_in_schema.split(".")[0]: group.column(i).total_compressed_size for i in range(12)}
    per_row = sum(sizes[name] for name in columns) / rows
    assert 80 < per_row <= 110


def test_distributions_of_the_tests_are_ones(store):
    made = distributions(np.random.default_rng(0), 5, 8, 500)
    mass = np.exp(made["topk_logprobs"]).sum(axis=1) + np.exp(made["tail_logprob"])
    np.testing.assert_allclose(mass, 1, rtol=1e-6)
