import math

import numpy as np
import pytest
from synthetic import generation, questions

from sekd.evaluation.behaviour import Pair, calibrate, count_pairs, summarise, tabulate
from sekd.inference.strategies import among_offered
from sekd.questions import Question


def test_confidence_is_the_softmax_over_the_offered_letters() -> None:
    logprobs = [math.log(p) for p in (0.1, 0.4, 0.2, 0.1)]  # 0.2 of the mass is on other tokens
    assert among_offered(logprobs)[1] == pytest.approx(0.5)
    assert among_offered([-math.inf, 0.0, -math.inf, -math.inf])[0] == 0.0


def test_the_calibration_error_is_the_weighted_gap_of_the_bins() -> None:
    pairs = [(0.95, True)] * 8 + [(0.95, False)] * 2 + [(0.55, True)] * 5 + [(0.55, False)] * 5
    result = summarise(pairs)
    assert [each["count"] for each in result["bins"]] == [10, 10]
    assert [(each["low"], each["high"]) for each in result["bins"]] == [(50, 60), (90, 100)]
    assert result["error"] == pytest.approx((abs(55 - 50) * 10 + abs(95 - 80) * 10) / 20)


def test_a_calibrated_model_has_a_small_error_and_a_boastful_one_a_large() -> None:
    rng = np.random.default_rng(0)
    stated = rng.uniform(0.3, 1, 20_000)
    right = rng.random(20_000) < stated
    assert (summarise(list(zip(stated, right, strict=True)))["error"] or 0) < 1.5
    assert (summarise([(0.99, bool(r)) for r in right])["error"] or 0) > 25


def test_answers_without_a_letter_are_counted_apart() -> None:
    asked = questions(np.random.default_rng(0))
    said = generation("s", asked, [0, 1, 2, 3], paradigm="joint", unparsed=True)
    result = calibrate([said], [[None] * 4])
    assert tuple(result[key] for key in ("answers", "unread", "without", "error")) == (0, 4, 0, None)
    result = calibrate([said], [[0, None, 2, None]])  # parsed, but not where a letter's probability is known
    assert tuple(result[key] for key in ("answers", "unread", "without", "error")) == (0, 2, 2, None)


def test_calibration_is_of_the_answer_given_where_the_truth_is_known() -> None:
    known, unknown = (questions(np.random.default_rng(0), known=known) for known in (True, False))
    said = [generation("s", asked, [0] * 4, paradigm="joint") for asked in (known, unknown)]
    result = calibrate(said, [[1] * 4, [0] * 4])  # the letters say 0.7 for option 0 and 0.1 for each other
    assert tuple(result[key] for key in ("answers", "unread", "without")) == (4, 0, 0)
    assert [each["confidence"] for each in result["bins"]] == [pytest.approx(10)]


def test_mistaken_pairs_are_counted_against_how_often_both_were_offered() -> None:
    first = Question(1, "order", ("cat", "dog", "owl", "bat"), 0)
    second = Question(1, "order", ("dog", "cat", "elk", "bat"), 1)
    said = [generation(str(i), [q], [0], paradigm="joint") for i, q in enumerate((first, second, first))]
    counts = count_pairs(said, [[1], [0], [None]])
    assert counts.mistaken == {Pair(1, "order", "cat", "dog"): 2}
    assert counts.offered[Pair(1, "order", "cat", "dog")] == 3
    assert counts.offered[Pair(1, "order", "cat", "elk")] == 1
    row = {"level": "order", "true": "cat", "answered": "dog", "mistaken": 2, "offered": 3}
    assert tabulate([counts], most=1) == [[row]]
