"""Calibration of the answer's probability: reliability bins and their summary."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sekd.evaluation.generations import Generation


@dataclass(frozen=True)
class Bin:
    """Answers of similar confidence: their number, mean confidence and accuracy, in percent."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """``error`` is the expected calibration error (Guo et al., 2017) in points over equal-width bins."""

    bins: tuple[Bin, ...]
    error: float | None
    answers: int
    unread: int  # questions whose answer could not be parsed
    without: int  # answers whose letter has no known probability, because the reply is not in the wording's form


def calibrate(
    generations: Sequence[Generation], answers: Sequence[Sequence[int | None]], *, bins: int = 10
) -> Calibration:
    """Reliability of every answered question whose truth is known.

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
                pairs.append((confidence(logprobs, answer), answer == question.truth))
    return summarise(pairs, bins=bins, unread=unread, without=without)


def confidence(logprobs: Sequence[float], answer: int) -> float:
    """The answer's probability among the offered letters, 0 … 1."""
    return among_offered(logprobs)[answer]


def among_offered(logprobs: Sequence[float]) -> tuple[float, ...]:
    """Each letter's probability among the offered ones; one of them at least is not −inf."""
    top = max(logprobs)
    weights = [math.exp(value - top) for value in logprobs]
    return tuple(weight / sum(weights) for weight in weights)


def summarise(pairs: Sequence[tuple[float, bool]], *, bins: int = 10, unread: int = 0, without: int = 0) -> Calibration:
    """Equal-width bins of (confidence, right) and the gap between the two, weighted by the bins' counts."""
    groups: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for stated, right in pairs:
        groups[min(int(stated * bins), bins - 1)].append((stated, right))
    filled = tuple(_bin(i / bins, (i + 1) / bins, group) for i, group in enumerate(groups) if group)
    gaps = sum(each.count * abs(each.confidence - each.accuracy) for each in filled)
    return Calibration(filled, gaps / len(pairs) if pairs else None, len(pairs), unread, without)


def _bin(low: float, high: float, group: Sequence[tuple[float, bool]]) -> Bin:
    count = len(group)
    stated = 100 * sum(value for value, _ in group) / count
    return Bin(100 * low, 100 * high, count, stated, 100 * sum(right for _, right in group) / count)
