"""Calibration of the answer's probability: reliability bins and their summary."""

from collections.abc import Sequence
from typing import Any

from sekd.evaluation.generations import Generation
from sekd.inference.strategies import among_offered

BINS = 10
Calibration = dict[str, Any]


def calibrate(generations: Sequence[Generation], answers: Sequence[Sequence[int | None]]) -> Calibration:
    """Reliability of every answered question whose truth is known, as ``summarise`` returns it.

    Confidence is the answered letter's probability among the offered letters, so that it is comparable between free and
    guided decoding.
    """
    pairs: list[tuple[float, bool]] = []
    unread = without = 0
    for generation, chosen in zip(generations, answers, strict=True):
        for question, logprobs, answer in zip(generation.questions, generation.letter_logprobs, chosen, strict=True):
            if question.truth is None:
                continue
            if answer is None:
                unread += 1
            elif not logprobs:
                without += 1
            else:
                pairs.append((among_offered(logprobs)[answer], answer == question.truth))
    return summarise(pairs) | {"unread": unread, "without": without}


def summarise(pairs: Sequence[tuple[float, bool]]) -> Calibration:
    """Equal-width bins of (confidence, right) and the gap between the two, weighted by the bins' counts.

    Returns:
        "bins", those with an answer: {"low", "high", "count", mean "confidence", "accuracy"} in percent; "error", the
        expected calibration error (Guo et al., 2017) in points, None without answers; "answers", their number.
    """
    groups: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for stated, right in pairs:
        groups[min(int(stated * BINS), BINS - 1)].append((stated, right))
    bins = [
        {
            "low": 100 * (i / BINS),
            "high": 100 * ((i + 1) / BINS),
            "count": len(group),
            "confidence": 100 * sum(stated for stated, _ in group) / len(group),
            "accuracy": 100 * sum(right for _, right in group) / len(group),
        }
        for i, group in enumerate(groups)
        if group
    ]
    gaps = sum(each["count"] * abs(each["confidence"] - each["accuracy"]) for each in bins)
    return {"bins": bins, "error": gaps / len(pairs) if pairs else None, "answers": len(pairs)}
