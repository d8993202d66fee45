"""Where a path stops, and the scores of paths that stop, each compared with a count over single images."""

import math
import random

import pytest

from sekd.descent import depth_to_stop
from sekd.evaluation.certainty import choose_threshold, coverage_curve
from tools.descent import open_set_scores, stopping_scores

TRUTH = ("Aves", "Strigidae", "Bubo")


def test_a_path_stops_at_its_deepest_node_that_is_sure_enough():
    logprobs = [math.log(p) for p in (0.9, 0.6, 0.3)]
    assert [depth_to_stop(logprobs, t) for t in (0, 0.3, 0.31, 0.6, 0.9, 0.95)] == [3, 3, 2, 2, 1, 0]


@pytest.mark.parametrize(
    ("answered", "kind"),
    [
        (TRUTH, "exact"),
        (("aves", "strigidae", "BUBO"), "exact"),
        (TRUTH[:2], "too_coarse"),
        ((), "too_coarse"),
        ((*TRUTH, "Bubo bubo"), "too_fine"),
        (("Aves", "Corvidae"), "wrong"),
        (("Aves", "Corvidae", "Bubo"), "wrong"),
    ],
)
def test_an_answer_is_exact_too_coarse_too_fine_or_wrong(answered: tuple[str, ...], kind: str):
    scores = stopping_scores([TRUTH], [answered])
    assert {name: scores[name] for name in ("exact", "too_coarse", "too_fine", "wrong")} == {
        name: 100.0 * (name == kind) for name in ("exact", "too_coarse", "too_fine", "wrong")
    }


def test_open_set_scores_are_those_of_a_count():
    rng = random.Random(0)
    outside = [rng.random() < 0.3 for _ in range(200)]
    refused = [rng.random() < (0.7 if o else 0.1) for o in outside]
    scores = open_set_scores(outside, refused)
    caught = sum(o and r for o, r in zip(outside, refused, strict=True))
    assert scores["precision"] == pytest.approx(100 * caught / sum(refused))
    assert scores["recall"] == pytest.approx(100 * caught / sum(outside))
    assert open_set_scores([False], [False]) | {"n": 1} == {
        "precision": None,
        "recall": None,
        "n": 1,
        "outside": 0,
        "refused": 0,
    }


def test_the_curve_holds_precision_and_coverage_at_every_threshold():
    rng = random.Random(1)
    certainty = [round(rng.random(), 1) for _ in range(100)]  # many are equal
    right = [rng.random() < c for c in certainty]
    curve = coverage_curve(certainty, right)
    assert curve["threshold"] == sorted(set(certainty), reverse=True)
    for threshold, coverage, precision in zip(*curve.values(), strict=True):
        kept = [r for c, r in zip(certainty, right, strict=True) if c >= threshold]
        assert coverage == pytest.approx(len(kept))
        assert precision == pytest.approx(100 * sum(kept) / len(kept))


def test_the_threshold_chosen_is_the_lowest_that_is_precise_enough():
    certainty, right = [0.9, 0.8, 0.7, 0.6], [True, True, False, True]
    assert choose_threshold(certainty, right, precision=100) == 0.8
    assert choose_threshold(certainty, right, precision=75) == 0.6
    assert choose_threshold([0.5], [False], precision=50) is None
