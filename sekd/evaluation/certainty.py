"""How sure the paths of a pass by descent are, and what keeping the surest gives. Shape legend: N images."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from sekd.errors import SekdError
from sekd.store.schema import PATH_LOGPROB
from sekd.taxonomy import Names, fold

JUDGED = ("sample", "step", "n_steps", "depth", "options", "answer", PATH_LOGPROB)  # columns


def path_certainties(rows: pa.Table, labels: Mapping[str, Names]) -> list[tuple[float, bool | None]]:
    """Of every image of a shard: the probability of its path, and whether the answers are right as far as they go.

    Args:
        rows: the shard's targets, with the columns ``JUDGED``.
        labels: true path by sample, as far as known; None is returned for the others.
    """
    found, right = [], True
    for row in rows.select(JUDGED).to_pylist():
        right = right or row["step"] == 0
        if (label := labels.get(row["sample"])) is not None:
            answer = row["options"][row["answer"]]
            right &= row["depth"] < len(label) and fold(label[row["depth"]]) == fold(answer)
        if row["step"] == row["n_steps"] - 1:
            found.append((math.exp(row[PATH_LOGPROB]), None if label is None else right))
    return found


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


def choose_threshold(certainty_N: Sequence[float], right_N: Sequence[bool], *, precision: float) -> float | None:
    """The lowest threshold at which the images kept are right in ``precision`` percent of cases; None if none is."""
    curve = coverage_curve(certainty_N, right_N)
    pairs = zip(curve["threshold"], curve["precision"], strict=True)
    return min((threshold for threshold, reached in pairs if reached >= precision), default=None)
