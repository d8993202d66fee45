"""Confusions between names, and images whose answers change between right and wrong."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sekd.evaluation.generations import Generation

Way = tuple[str, str]  # model, paradigm
Answered = tuple[Generation, Sequence[int | None]]  # an image's questions and answers
# (whole path right before, after) -> the change's name, and its number of example images
CHANGES = {
    (True, True): ("right_before_and_after", 0),
    (False, True): ("repaired", 4),
    (True, False): ("newly_wrong", 2),
    (False, False): ("still_wrong", 2),
}


@dataclass(frozen=True, order=True)
class Pair:
    """At a level, the true name and another option."""

    depth: int
    level: str
    true: str
    other: str


@dataclass(frozen=True)
class Counts:
    """For one model and strategy: questions that offered both names of a pair, and those that chose the wrong one."""

    offered: Mapping[Pair, int]
    mistaken: Mapping[Pair, int]


def count_pairs(generations: Sequence[Generation], answers: Sequence[Sequence[int | None]]) -> Counts:
    """Over every question whose truth is known; an answer that could not be parsed is no confusion."""
    offered: Counter[Pair] = Counter()
    mistaken: Counter[Pair] = Counter()
    for generation, chosen in zip(generations, answers, strict=True):
        for question, answer in zip(generation.questions, chosen, strict=True):
            if question.truth is None:
                continue
            pairs = [Pair(question.depth, question.level, str(question.truth_name), name) for name in question.options]
            offered.update(pair for i, pair in enumerate(pairs) if i != question.truth)
            if answer is not None and answer != question.truth:
                mistaken[pairs[answer]] += 1
    return Counts(offered, mistaken)


def commonest(counts: Sequence[Counts], *, most: int) -> list[Pair]:
    """The ``most`` most frequent pairs of each level over all models and strategies, coarse levels first."""
    total: Counter[Pair] = Counter()
    for each in counts:
        total.update(each.mistaken)
    ranked = sorted(total, key=lambda pair: (pair.depth, -total[pair], pair))
    levels = groupby(ranked, key=lambda pair: pair.depth)
    return [pair for _, pairs in levels for pair in list(pairs)[:most]]


def tabulate(counts: Sequence[Counts], *, most: int) -> list[list[dict[str, Any]]]:
    """The ``commonest`` pairs as rows of ``scores.json``, the same pairs for every model and strategy."""
    pairs = commonest(counts, most=most)
    return [
        [
            {"level": pair.level, "true": pair.true, "answered": pair.other}
            | {"mistaken": each.mistaken.get(pair, 0), "offered": each.offered.get(pair, 0)}
            for pair in pairs
        ]
        for each in counts
    ]


def changes(ways: Mapping[Way, Mapping[str, Answered]], before: Way, after: Way) -> dict[str, Any] | None:
    """The number of images that changed between wrong and right, with examples. None if no image's truth is known.

    Args:
        ways: model and paradigm -> sample -> its answers; an example has the answers of all.

    Returns:
        the change's name -> {"n": images, "examples": [...]}. Examples are taken at even distances from all images of
        their kind, in the order of the samples, so that nobody has chosen them.
    """
    kinds: dict[tuple[bool, bool], list[str]] = {kind: [] for kind in CHANGES}
    for sample in sorted(ways[before].keys() & ways[after].keys()):
        if all(question.truth is not None for question in ways[before][sample][0].questions):
            kinds[_right(ways[before][sample]), _right(ways[after][sample])].append(sample)
    if not any(kinds.values()):
        return None
    return {
        name: {"n": len(kinds[kind]), "examples": [_example(ways, before, each) for each in _even(kinds[kind], most)]}
        for kind, (name, most) in CHANGES.items()
    }


def _right(answered: Answered) -> bool:
    return [question.truth for question in answered[0].questions] == list(answered[1])


def _even(samples: Sequence[str], most: int) -> list[str]:
    count = min(most, len(samples))
    return [samples[(2 * i + 1) * len(samples) // (2 * count)] for i in range(count)]


def _example(ways: Mapping[Way, Mapping[str, Answered]], before: Way, sample: str) -> dict[str, Any]:
    generation = ways[before][sample][0]
    answers: dict[str, dict[str, list[str | None]]] = {}
    for (model, paradigm), answered in ways.items():
        if sample in answered:
            answers.setdefault(model, {})[paradigm] = _names(*answered[sample])
    return {
        "sample": sample,
        "image": generation.image,
        "levels": [question.level for question in generation.questions],
        "true": [question.truth_name for question in generation.questions],
        "answers": answers,
    }


def _names(generation: Generation, answers: Sequence[int | None]) -> list[str | None]:
    pairs = zip(generation.questions, answers, strict=True)
    return [None if answer is None else question.options[answer] for question, answer in pairs]
