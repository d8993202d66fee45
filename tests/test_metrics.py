"""Every metric against a plain reading of its definition; the bootstrap against what it estimates."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sekd.errors import SekdError
from sekd.metrics import (
    METRICS,
    bootstrap_interval,
    invalid_edges,
    paired_difference,
    parse_failures,
    score,
    treecut_accuracy,
)
from sekd.taxonomy import Taxonomy

name = st.sampled_from(["a", "A", "b", "B", "ç", "Ç"])
answer = st.one_of(st.none(), name)
pairs = st.lists(
    st.tuples(st.lists(name, min_size=1, max_size=6), st.lists(answer, max_size=7)), min_size=1, max_size=12
)


def by_definition(truth: list[str], predicted: list[str | None]) -> dict[str, float]:
    """The five metrics of one path, one loop each."""
    t = [each.lower() for each in truth]
    p = [None if each is None else each.lower() for each in predicted]
    padded = p + [None] * len(t)
    agreeing = 0
    for i in range(len(t)):
        agreeing += padded[i] == t[i]
    prefix = 0
    while prefix < len(t) and padded[prefix] == t[prefix]:
        prefix += 1
    pairs = 0
    for i in range(len(t) - 1):
        pairs += padded[i] == t[i] and padded[i + 1] == t[i + 1]
    return {
        "hca": float(t == p),
        "leaf": float(len(p) > 0 and p[-1] == t[-1]),
        "por": agreeing / len(t),
        "s_por": prefix / len(t),
        "tor": pairs / (len(t) - 1) if len(t) > 1 else 0.0,
    }


@settings(deadline=None)
@given(pairs)
def test_metrics_equal_their_definitions(pairs: list[tuple[list[str], list[str | None]]]) -> None:
    truth, predicted = [list(t) for t, _ in pairs], [list(p) for _, p in pairs]
    scores = score(truth, predicted)
    expected = [by_definition(t, p) for t, p in pairs]
    for metric in METRICS:
        assert scores[metric] == pytest.approx(100 * np.mean([each[metric] for each in expected]), abs=1e-9)
    assert scores["n"] == len(pairs)


@settings(deadline=None)
@given(pairs)
def test_accuracy_per_level_counts_the_paths_that_reach_it(pairs: list[tuple[list[str], list[str | None]]]) -> None:
    scores = score([t for t, _ in pairs], [p for _, p in pairs])
    for depth in range(max(len(t) for t, _ in pairs)):
        right = [
            depth < len(p) and p[depth] is not None and p[depth].lower() == t[depth].lower()  # type: ignore[union-attr]
            for t, p in pairs
            if len(t) > depth
        ]
        assert scores["per_level"][depth] == pytest.approx(100 * sum(right) / len(right), abs=1e-9)
        assert scores["per_level_n"][depth] == len(right)


@settings(deadline=None)
@given(pairs)
def test_right_and_wrong_parents_split_each_level(pairs: list[tuple[list[str], list[str | None]]]) -> None:
    scores = score([t for t, _ in pairs], [p for _, p in pairs])
    assert scores["given_right_parent"][0] == scores["given_wrong_parent"][0] == {"accuracy": None, "n": 0}
    for depth in range(1, len(scores["per_level"])):
        right, wrong = scores["given_right_parent"][depth], scores["given_wrong_parent"][depth]
        assert right["n"] + wrong["n"] == scores["per_level_n"][depth]
        together = sum((each["accuracy"] or 0) * each["n"] for each in (right, wrong)) / (right["n"] + wrong["n"])
        assert together == pytest.approx(scores["per_level"][depth])


def test_accuracy_given_the_parent_is_as_counted_by_hand() -> None:
    truth = [["a", "b"]] * 5
    predicted = [["a", "b"], ["a", "x"], ["a", "b"], ["x", "b"], [None, "x"]]
    scores = score(truth, predicted)
    assert scores["given_right_parent"][1] == {"accuracy": pytest.approx(200 / 3), "n": 3}
    assert scores["given_wrong_parent"][1] == {"accuracy": 50.0, "n": 2}


def test_what_did_not_parse_is_wrong_and_counted() -> None:
    predicted = [["a", None, "c"], [None, None], ["a", "b", "c"]]
    assert score([["a", "b", "c"], ["a", "b"], ["a", "b", "c"]], predicted)["hca"] == pytest.approx(100 / 3)
    assert parse_failures(predicted) == pytest.approx(100 * 3 / 8)
    assert parse_failures([]) == 0


def test_levels_that_are_null_in_the_truth_are_dropped() -> None:
    scores = score([["a", None, "c"]], [["a", "whatever", "c"]])
    assert scores["hca"] == scores["tor"] == 100
    assert len(scores["per_level"]) == 2


def test_a_right_path_scores_full_marks_and_a_path_of_one_level_no_pairs() -> None:
    assert all(score([["a", "b"]], [["A", "B"]])[metric] == 100 for metric in METRICS)
    assert score([["a"]], [["a"]])["tor"] == 0


@pytest.mark.parametrize(("truth", "predicted"), [([], []), ([["a"]], []), ([[]], [[]]), ([[None]], [["a"]])])
def test_nothing_to_score_is_an_error(truth: list[list[str]], predicted: list[list[str]]) -> None:
    with pytest.raises(SekdError):
        score(truth, predicted)


def test_the_interval_is_the_one_that_drawing_items_gives() -> None:
    values = np.random.default_rng(0).choice([0.0, 50.0, 100.0], 300)
    rng = np.random.default_rng(1)
    drawn = [values[rng.integers(0, 300, 300)].mean() for _ in range(4000)]
    assert bootstrap_interval(values, resamples=4000) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.6)


def test_a_stored_interval_can_be_drawn_again() -> None:
    values = np.random.default_rng(0).random(100)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_many_distinct_values_are_resampled_in_bounded_memory() -> None:
    values = np.random.default_rng(0).random(100_000)
    low, high = bootstrap_interval(values, resamples=200)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(len(values)), rel=0.3)


def test_paired_differences_are_sharper_than_unpaired_ones() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(500)
    second = first + 0.02 + 0.01 * rng.random(500)
    result = paired_difference(first, second)
    assert result["low"] < result["difference"] < result["high"]
    assert result["difference"] == pytest.approx(second.mean() - first.mean())
    assert result["high"] - result["low"] < 0.002
    with pytest.raises(SekdError, match="same items"):
        paired_difference(first, second[1:])


LEAVES = [("a", "b", "c"), ("a", "b", "d"), ("a", "e"), ("f", "g", "h"), ("f", "g", "i"), ("f", "c", "b")]


@pytest.mark.parametrize("rate", [0.2, 0.5, 1.0])
def test_treecut_accuracy_is_the_mean_over_every_cut_of_the_tree(rate: float) -> None:
    inner = sorted({leaf[:depth] for leaf in LEAVES for depth in range(1, len(leaf))})
    predictions = [*LEAVES, ("a",), ("a", "b"), (), ("f", "b", "c")]
    truth, predicted = zip(*itertools.product(LEAVES, predictions), strict=True)
    expected = np.zeros(len(truth))
    for cut in itertools.product([False, True], repeat=len(inner)):
        chance = np.prod([rate if each else 1 - rate for each in cut])
        ends = {node for node, each in zip(inner, cut, strict=True) if each} | set(LEAVES)
        for index, (t, p) in enumerate(zip(truth, predicted, strict=True)):
            asked = next(t[:depth] for depth in range(1, len(t) + 1) if t[:depth] in ends)
            expected[index] += chance * (p[: len(asked)] == asked)
    assert treecut_accuracy(truth, predicted, rate=rate) == pytest.approx(expected)


@given(st.lists(st.lists(st.sampled_from(["a", "B", "c", "d", "e", "f", "g", None]), max_size=3), max_size=20))
def test_an_edge_is_invalid_if_no_leaf_passes_both_names_at_their_levels(paths: list[list[str | None]]) -> None:
    depths = [[0, 1, 2][: len(path)] for path in paths]
    counted = invalid_edges(Taxonomy(LEAVES), paths, depths)
    for path, (invalid, of) in zip(paths, counted, strict=True):
        edges = [(d, path[d], path[d + 1]) for d in range(len(path) - 1) if path[d] and path[d + 1]]
        valid = [
            any(len(leaf) > d + 1 and leaf[d] == above.lower() and leaf[d + 1] == below.lower() for leaf in LEAVES)
            for d, above, below in edges
        ]
        assert (invalid, of) == (valid.count(False), len(valid))


def test_an_edge_over_a_level_that_was_not_asked_counts_the_node_far_below() -> None:
    assert invalid_edges(Taxonomy(LEAVES), [["a", "d"], ["a", "h"]], [[0, 2], [0, 2]]) == [(0, 1), (1, 1)]
