"""Which names are taken for which: how often each pair was offered, and how often mistaken."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from sekd.evaluation.generations import Generation


@dataclass(frozen=True, order=True)
class Pair:
    """At a level, the true name and another that stood beside it."""

    depth: int
    level: str
    true: str
    other: str


@dataclass(frozen=True)
class Counts:
    """For one way of asking: questions that offered both names of a pair, and those that answered the wrong one."""

    offered: Mapping[Pair, int]
    mistaken: Mapping[Pair, int]


def count_pairs(generations: Sequence[Generation], answers: Sequence[Sequence[int | None]]) -> Counts:
    """Over every question whose truth is known; an answer that could not be read mistakes nothing."""
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
    """The ``most`` pairs of each level that are mistaken most often over all ways of asking, coarse levels first."""
    total: Counter[Pair] = Counter()
    for each in counts:
        total.update(each.mistaken)
    ranked = sorted(total, key=lambda pair: (pair.depth, -total[pair], pair))
    levels = groupby(ranked, key=lambda pair: pair.depth)
    return [pair for _, pairs in levels for pair in list(pairs)[:most]]
