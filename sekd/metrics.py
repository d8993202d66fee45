"""Scores of predicted paths against true ones, and bootstrap intervals.

Definitions are those of "Vision LLMs Are Bad at Hierarchical Visual Understanding" (arXiv 2505.24840), as its reference
script computes them. For a true path t of d names and a predicted path p, names compared without case:

    HCA    1 if p = t
    leaf   1 if the last names agree
    POR    share of the d levels that agree
    S-POR  length of the longest agreeing beginning / d
    TOR    share of the d - 1 adjacent pairs of levels in which both agree; 0 where d = 1

Means over paths, in percent. Levels that are null in the truth are dropped. What did not parse is ``None``, and wrong.

Shape legend: N paths, D the greatest depth, R resamples.
"""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from sekd.errors import SekdError
from sekd.taxonomy import Taxonomy, fold, fold_path

Path = Sequence[str | None]
METRICS = ("hca", "leaf", "por", "s_por", "tor")
RESAMPLES = 2000
AT_ONCE = 10**7  # numbers that a bootstrap holds in memory at a time


def score(truth: Sequence[Path], predicted: Sequence[Path]) -> dict[str, Any]:
    """Every metric of N predicted paths.

    Args:
        truth: names coarse to fine, a path each.
        predicted: the same, ``None`` where nothing parsed.

    Returns:
        "n"; "hca", "leaf", "por", "s_por", "tor" in percent; "per_level", the accuracy at each depth over the
        paths that reach it, in percent, with "per_level_n"; "given_right_parent" and "given_wrong_parent", a list by
        depth of {"accuracy": percent or None, "n": count}, n = 0 at depth 0, which has no parent.

    Raises:
        SekdError: no path, not as many predictions as truths, or a truth without names.
    """
    agree_ND, reached_ND = _agreement(truth, predicted)
    levels = list(zip(agree_ND.T, reached_ND.T, strict=True))
    return {
        "n": len(truth),
        **{name: 100 * float(values_N.mean()) for name, values_N in per_path(truth, predicted).items()},
        "per_level": [100 * float(agree_N[there_N].mean()) for agree_N, there_N in levels],
        "per_level_n": [int(there_N.sum()) for _, there_N in levels],
        "given_right_parent": _given_parent(agree_ND, reached_ND, right=True),
        "given_wrong_parent": _given_parent(agree_ND, reached_ND, right=False),
    }


def per_path(truth: Sequence[Path], predicted: Sequence[Path]) -> dict[str, np.ndarray]:
    """The five metrics of each path: [N] each, in 0 … 1."""
    agree_ND, reached_ND = _agreement(truth, predicted)
    depth_N = reached_ND.sum(1)
    # Beyond a path's depth nothing agrees, so sums over D are sums over the path.
    right_N = agree_ND.sum(1)
    pairs_N = (agree_ND[:, 1:] & agree_ND[:, :-1]).sum(1)
    folded = [_aligned(t, p) for t, p in zip(truth, predicted, strict=True)]
    return {
        "hca": (right_N == [max(len(t), len(p)) for t, p in folded]).astype(float),
        "leaf": np.array([bool(p) and p[-1] == t[-1] for t, p in folded], float),
        "por": right_N / depth_N,
        "s_por": np.logical_and.accumulate(agree_ND, 1).sum(1) / depth_N,
        "tor": pairs_N / np.maximum(depth_N - 1, 1),
    }


def treecut_accuracy(truth: Sequence[Path], predicted: Sequence[Path], *, rate: float = 0.5) -> np.ndarray:
    """Each path's expected accuracy over random treecuts: [N], in 0 … 1. Its mean is the mean treecut accuracy (MTA).

    A treecut replaces subtrees by their roots and asks for the node of the cut that an image belongs to (arXiv
    2306.02240). Here every inner node below the root is cut with probability ``rate``, each independently, and the
    expectation is exact. With s the length of the longest agreeing beginning and d that of the truth, it is

        1 if s = d, else 1 - (1 - rate)^s
    """
    agree_ND, reached_ND = _agreement(truth, predicted)
    agreeing_N = np.logical_and.accumulate(agree_ND, 1).sum(1)
    return np.where(agreeing_N == reached_ND.sum(1), 1.0, 1 - (1 - rate) ** agreeing_N)


def invalid_edges(
    taxonomy: Taxonomy, predicted: Sequence[Path], depths: Sequence[Sequence[int]]
) -> list[tuple[int, int]]:
    """For each path: how many of its neighbouring answers are no node and a node below it, and of how many.

    Args:
        predicted: answered names, coarse to fine; pairs with a ``None`` are not counted.
        depths: the depth in the tree that each answer is about, a list a path.
    """

    @cache
    def edges(upper: int, lower: int) -> set[tuple[str, str]]:
        return {(node[upper], node[lower]) for node in map(fold_path, taxonomy.nodes(lower))}

    counts = []
    for path, levels in zip(predicted, depths, strict=True):
        pairs = [
            (edges(upper, lower), (fold(above), fold(below)))
            for (upper, above), (lower, below) in pairwise(zip(levels, path, strict=True))
            if above is not None and below is not None
        ]
        counts.append((sum(pair not in valid for valid, pair in pairs), len(pairs)))
    return counts


def parse_failures(predicted: Sequence[Path]) -> float:
    """The share of answers that did not parse, in percent."""
    failed = [name is None for path in predicted for name in path]
    return 100 * float(np.mean(failed)) if failed else 0.0


def bootstrap_interval(
    values_N: Sequence[float] | np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile interval of the mean, by resampling the N values with replacement.

    Values that repeat are drawn together: the same distribution, in less time.
    """
    if not len(values_N):
        raise SekdError("nothing to resample: expected at least one value")
    distinct, counts = np.unique(np.asarray(values_N, float), return_counts=True)
    sums_R = resampled_sums(distinct, counts, resamples=resamples, seed=seed)
    low, high = np.percentile(sums_R / len(values_N), [2.5, 97.5])
    return float(low), float(high)


def resampled_sums(values: np.ndarray, counts: np.ndarray, *, resamples: int, seed: int) -> np.ndarray:
    """Sums [R, …] of as many draws with replacement as there are items; ``counts`` of them have each of the values."""
    rng, n = np.random.default_rng(seed), int(counts.sum())
    at_once = max(1, AT_ONCE // len(values))
    drawn = [
        rng.multinomial(n, counts / n, size=min(at_once, resamples - done)) @ values
        for done in range(0, resamples, at_once)
    ]
    return np.concatenate(drawn)


def paired_difference(
    first_N: Sequence[float] | np.ndarray,
    second_N: Sequence[float] | np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, float]:
    """How much higher the second's mean is, both measured on the same N items, with its 95 % bootstrap interval.

    Returns:
        "difference", "low" and "high", in the unit of the values.
    """
    if len(first_N) != len(second_N):
        raise SekdError(f"paired values must belong to the same items: got {len(first_N)} and {len(second_N)}")
    difference_N = np.asarray(second_N, float) - np.asarray(first_N, float)
    low, high = bootstrap_interval(difference_N, resamples=resamples, seed=seed)
    return {"difference": float(difference_N.mean()), "low": low, "high": high}


def _given_parent(agree_ND: np.ndarray, reached_ND: np.ndarray, *, right: bool) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = [{"accuracy": None, "n": 0}]
    for depth in range(1, agree_ND.shape[1]):
        chosen = agree_ND[reached_ND[:, depth] & (agree_ND[:, depth - 1] == right), depth]
        entries.append({"accuracy": 100 * float(chosen.mean()) if len(chosen) else None, "n": len(chosen)})
    return entries


def _agreement(truth: Sequence[Path], predicted: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Whether prediction and truth agree at each depth, and whether the truth reaches it: [N, D] each."""
    if not len(truth) or len(truth) != len(predicted):
        raise SekdError(f"scores need as many predicted paths as true ones: got {len(predicted)} for {len(truth)}")
    rows = [_aligned(t, p) for t, p in zip(truth, predicted, strict=True)]
    deepest = max(len(t) for t, _ in rows)
    agree_ND = np.zeros((len(rows), deepest), bool)
    reached_ND = np.zeros((len(rows), deepest), bool)
    for row, (t, p) in enumerate(rows):
        if not t:
            raise SekdError(f"true path {row} holds no name: expected at least one")
        reached_ND[row, : len(t)] = True
        agree_ND[row, : min(len(t), len(p))] = [a == b for a, b in zip(t, p, strict=False)]
    return agree_ND, reached_ND


def _aligned(truth: Path, predicted: Path) -> tuple[list[str], list[str | None]]:
    """Both without case, and without the levels that are null in the truth."""
    kept = [level for level, name in enumerate(truth) if name is not None]
    beyond = range(len(truth), len(predicted))
    p = [predicted[level] for level in [*kept, *beyond] if level < len(predicted)]
    return [str(truth[level]).lower() for level in kept], [None if name is None else name.lower() for name in p]
