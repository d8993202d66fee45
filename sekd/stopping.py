"""Paths that end early: where to stop, and how good the answers are that did.

A path's probability falls from level to level. It ends at its deepest node whose probability is at least a threshold;
where not even the first node is that sure, nothing in the tree was recognised.

Shape legend: N images.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sekd.errors import SekdError
from sekd.taxonomy import Names, fold_path


def depth_to_stop(logprobs: Sequence[float], threshold: float) -> int:
    """How many levels of a path are sure enough.

    Args:
        logprobs: natural log of the path's probability at each level, falling.
        threshold: 0 … 1; 0 keeps every level.
    """
    least = math.log(threshold) if threshold > 0 else -math.inf
    return sum(logprob >= least for logprob in logprobs)


def check_threshold(threshold: float, setting: str) -> None:
    if not 0 <= threshold <= 1:
        raise SekdError(f"{setting}={threshold}: expected a probability from 0 to 1")


def stopping_scores(truth: Sequence[Names], answered: Sequence[Names]) -> dict[str, Any]:
    """Of N answered paths, each cut where it stopped: the shares in percent that are

    "exact": the truth itself;
    "too_coarse": a beginning of the truth, the empty path included;
    "too_fine": the whole truth and more below it;
    "wrong": the rest, with a node that the truth does not hold;

    and "accuracy_at_depth", a list by number of levels answered, from 1, of {"accuracy": percent or None, "n"}: how
    often an answer that stopped there is right as far as it goes.
    """
    if len(truth) != len(answered) or not truth:
        raise SekdError(f"scores need as many answers as true paths: got {len(answered)} for {len(truth)}")
    pairs = [(fold_path(t), fold_path(a)) for t, a in zip(truth, answered, strict=True)]
    kinds = [_kind(t, a) for t, a in pairs]
    result: dict[str, Any] = {"n": len(pairs)}
    for kind in ("exact", "too_coarse", "too_fine", "wrong"):
        result[kind] = 100 * kinds.count(kind) / len(kinds)
    right = [(len(a), a == t[: len(a)]) for t, a in pairs]
    result["accuracy_at_depth"] = [
        _mean([is_right for stopped, is_right in right if stopped == depth])
        for depth in range(1, max(len(a) for _, a in pairs) + 1)
    ]
    return result


def _kind(truth: Names, answered: Names) -> str:
    if answered == truth:
        return "exact"
    if answered == truth[: len(answered)]:
        return "too_coarse"
    return "too_fine" if truth == answered[: len(truth)] else "wrong"


def _mean(values: Sequence[bool]) -> dict[str, Any]:
    return {"accuracy": 100 * float(np.mean(values)) if values else None, "n": len(values)}


def open_set_scores(outside_N: Sequence[bool], refused_N: Sequence[bool]) -> dict[str, Any]:
    """How well images that the tree does not hold are found, in percent.

    Args:
        outside_N: whether an image is outside the tree.
        refused_N: whether its path ended before the first level.

    Returns:
        "precision": of the refused, the share that is outside; None where none is refused. "recall": of those outside,
        the share that is refused; None where none is outside. "n", "outside" and "refused", numbers of images.
    """
    outside, refused = np.asarray(outside_N, bool), np.asarray(refused_N, bool)
    both = int((outside & refused).sum())
    counts = {"n": len(outside), "outside": int(outside.sum()), "refused": int(refused.sum())}
    return {
        "precision": 100 * both / counts["refused"] if counts["refused"] else None,
        "recall": 100 * both / counts["outside"] if counts["outside"] else None,
        **counts,
    }


def coverage_curve(certainty_N: Sequence[float], right_N: Sequence[bool]) -> dict[str, list[float]]:
    """What keeping the surest images costs and gives.

    Returns:
        Lists over thresholds, falling: "threshold"; "coverage", the share of images whose certainty is at least that,
        and "precision", the share of those that are right, in percent.
    """
    certainty, right = np.asarray(certainty_N, float), np.asarray(right_N, float)
    if not len(certainty) or len(certainty) != len(right):
        raise SekdError(f"a curve needs a certainty for each image: got {len(certainty)} for {len(right)}")
    order = np.argsort(-certainty, kind="stable")
    kept = np.arange(1, len(order) + 1)
    precision = 100 * np.cumsum(right[order]) / kept
    last = np.append(np.diff(certainty[order]) != 0, True)  # images of one certainty are kept together
    return {
        "threshold": certainty[order][last].tolist(),
        "coverage": (100 * kept / len(order))[last].tolist(),
        "precision": precision[last].tolist(),
    }


def choose_threshold(certainty_N: Sequence[float], right_N: Sequence[bool], *, precision: float) -> float:
    """The lowest threshold at which the images kept are right in ``precision`` percent of cases.

    Raises:
        SekdError: no threshold reaches it.
    """
    curve = coverage_curve(certainty_N, right_N)
    reached = [t for t, p in zip(curve["threshold"], curve["precision"], strict=True) if p >= precision]
    if not reached:
        raise SekdError(f"no threshold keeps images of which {precision} % are right: ask for less")
    return min(reached)
