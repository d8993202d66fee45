"""What is behind a score: calibration, confusions between names, and images that change between right and wrong."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from sekd.evaluation.generations import Generation
from sekd.inference.strategies import among_offered

BINS = 10  # of calibration
Calibration = dict[str, Any]
Way = tuple[str, str]  # model, paradigm
Answered = tuple[Generation, Sequence[int | None]]  # an image's questions and answers
# (whole path right before, after) -> the change's name, and its number of example images
CHANGES = {
    (True, True): ("right_before_and_after", 0),
    (False, True): ("repaired", 4),
    (True, False): ("newly_wrong", 2),
    (False, False): ("still_wrong", 2),
}


class Pair(NamedTuple):
    """At a level, the true name and another that was offered beside it."""

    depth: int
    level: str
    true: str
    other: str


class Counts(NamedTuple):
    """For one model and strategy: questions that offered both names of a pair, and those that chose the wrong one."""

    offered: Counter[Pair]
    mistaken: Counter[Pair]


def count_pairs(generations: Sequence[Generation], answers: Sequence[Sequence[int | None]]) -> Counts:
    """Over every question whose truth is known; an answer that could not be parsed is no confusion."""
    counts = Counts(Counter(), Counter())
    for generation, chosen in zip(generations, answers, strict=True):
        for question, answer in zip(generation.questions, chosen, strict=True):
            if question.truth is None:
                continue
            pairs = [Pair(question.depth, question.level, str(question.truth_name), name) for name in question.options]
            counts.offered.update(pair for i, pair in enumerate(pairs) if i != question.truth)
            if answer is not None and answer != question.truth:
                counts.mistaken[pairs[answer]] += 1
    return counts


def tabulate(counts: Sequence[Counts], *, most: int) -> list[list[dict[str, Any]]]:
    """Rows of ``scores.json`` for each way of asking, about the same pairs.

    Those are the ``most`` pairs of each level that are mistaken most often over all ways, coarse levels first.
    """
    total: Counter[Pair] = sum((each.mistaken for each in counts), Counter())
    ranked = sorted(total, key=lambda pair: (pair.depth, -total[pair], pair))
    pairs = [pair for _, level in groupby(ranked, key=lambda pair: pair.depth) for pair in list(level)[:most]]
    return [
        [
            {"level": pair.level, "true": pair.true, "answered": pair.other}
            | {"mistaken": each.mistaken[pair], "offered": each.offered[pair]}
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
        truth = [question.truth for question in ways[before][sample][0].questions]
        if None not in truth:
            kinds[truth == list(ways[before][sample][1]), truth == list(ways[after][sample][1])].append(sample)
    if not any(kinds.values()):
        return None
    found = {}
    for kind, (name, most) in CHANGES.items():
        samples, count = kinds[kind], min(most, len(kinds[kind]))
        even = [samples[(2 * i + 1) * len(samples) // (2 * count)] for i in range(count)]
        found[name] = {"n": len(samples), "examples": [_example(ways, before, sample) for sample in even]}
    return found


def _example(ways: Mapping[Way, Mapping[str, Answered]], before: Way, sample: str) -> dict[str, Any]:
    generation = ways[before][sample][0]
    answers: dict[str, dict[str, list[str | None]]] = defaultdict(dict)
    for (model, paradigm), answered in ways.items():
        if sample in answered:
            answers[model][paradigm] = answered_names(*answered[sample])
    return {
        "sample": sample,
        "image": generation.image,
        "levels": [question.level for question in generation.questions],
        "true": [question.truth_name for question in generation.questions],
        "answers": dict(answers),
    }


def answered_names(generation: Generation, answers: Sequence[int | None]) -> list[str | None]:
    """The answered option of each question; None where nothing was read."""
    pairs = zip(generation.questions, answers, strict=True)
    return [None if answer is None else question.options[answer] for question, answer in pairs]


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
