"""What a whole pass says, read back from its store: size, answers, certainty, and scores where truth is known."""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from sekd.datasets import Dataset
from sekd.metrics import METRICS, score
from sekd.questions import LETTERS
from sekd.store import Layout, Store
from sekd.store.schema import PATH_LOGPROB, SCORED
from sekd.taxonomy import fold_path
from stage1_teacher.teacher_modes import OUTSIDE

SHOWN = (0.0, 0.5, 0.9, 0.99)  # thresholds on the probability of a path found by descent


@dataclass
class LevelSums:
    """One level's steps. ``entropy`` (nats) is that of the options' probabilities, renormalised over the letters."""

    steps: int = 0
    entropy: float = 0.0
    mass: float = 0.0
    known: int = 0
    right: int = 0


@dataclass
class Summary:
    """Sums over a store; ``scores`` are ``sekd.metrics.score``'s, over the images whose whole truth is known."""

    images: int = 0
    rows: int = 0
    skipped: int = 0
    bytes: int = 0
    answers: Counter = field(default_factory=Counter)
    levels: dict[str, LevelSums] = field(default_factory=lambda: defaultdict(LevelSums))
    scores: dict[str, Any] | None = None
    outside: int = 0
    certainty: list[float] = field(default_factory=list)
    judged: list[tuple[float, bool]] = field(default_factory=list)


def summarise(store: Store, dataset: Dataset) -> Summary:
    """Read every shard's targets and add up what they say.

    A store of descents holds no truth: it is the dataset's, where that has labels. ``certainty`` is the probability of
    each path found, and ``judged`` that of those with a label, with whether the teacher's answers are right.
    """
    summary = Summary()
    descent = store.layout.path_logprob
    labels = {example.id: example.path for example in dataset.examples if example.path} if descent else {}
    truths: list[list[str]] = []
    chosen: list[list[str | None]] = []
    for index in range(store.plan.n_shards):
        entry = store.entry(index)
        summary.bytes += sum(file["bytes"] for file in entry.files.values())
        outside = sum(reason.startswith(OUTSIDE) for reason in entry.skipped.values())
        summary.outside += outside
        summary.skipped += len(entry.skipped) - outside
        rows = store.read_targets(index, columns=(*SCORED, "depth", *([PATH_LOGPROB] if descent else []))).to_pylist()
        summary.rows += len(rows)
        for row in rows:
            _add(summary, row, store.layout)
        for path in _by_sample(rows):
            summary.images += 1
            answered = [row["options"][row["answer"]] for row in path]
            if descent:
                summary.certainty.append(math.exp(path[-1][PATH_LOGPROB]))
                if label := labels.get(path[0]["sample"]):
                    truths.append([label[row["depth"]] for row in path if row["depth"] < len(label)])
                    chosen.append(answered)
                    summary.judged.append((summary.certainty[-1], fold_path(truths[-1]) == fold_path(answered)))
            elif all(row["truth"] >= 0 for row in path):
                truths.append([row["options"][row["truth"]] for row in path])
                chosen.append(answered)
    summary.scores = score(truths, chosen) if truths else None
    return summary


def _add(summary: Summary, row: dict[str, Any], layout: Layout) -> None:
    summary.answers[LETTERS[row["answer"]]] += 1
    level = summary.levels[row["level"]]
    probabilities = letter_probabilities(row, layout)
    level.steps += 1
    level.mass += probabilities.sum()
    level.entropy += entropy(probabilities)
    level.known += row["truth"] >= 0
    level.right += row["truth"] == row["answer"]


def letter_probabilities(row: dict[str, Any], layout: Layout) -> np.ndarray:
    """Probability of each option's letter [options]; 0 for one outside the stored top k."""
    kept = dict(zip(row["topk_ids"], row["topk_logprobs"], strict=True))
    letters = layout.letter_ids[: len(row["options"])]
    return np.exp([kept.get(letter, -np.inf) for letter in letters])


def entropy(probabilities: np.ndarray) -> float:
    """In nats, of the probabilities renormalised to 1; 0 where there are none."""
    positive = probabilities[probabilities > 0]
    if not len(positive):
        return 0.0
    normal = positive / positive.sum()
    return float(-(normal * np.log(normal)).sum())


def _by_sample(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    paths: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        paths.setdefault(row["sample"], []).append(row)
    return list(paths.values())


def show(summary: Summary, console: Console) -> None:
    """Print a summary."""
    answers = "  ".join(f"{letter} {100 * n / summary.rows:.1f} %" for letter, n in sorted(summary.answers.items()))
    left_out = f", {summary.skipped} unreadable images left out" if summary.skipped else ""
    console.print(f"{summary.images} images, {summary.rows} steps, {summary.bytes / 1e6:.1f} MB{left_out}")
    console.print(f"answers: {answers}")
    table = Table(box=None, pad_edge=False)
    for heading in ("level", "steps", "letter mass", "entropy (nats)", "right %"):
        table.add_column(heading, justify="left" if heading == "level" else "right")
    for name, level in summary.levels.items():
        right = f"{100 * level.right / level.known:.1f}" if level.known else "–"
        mass, spread = level.mass / level.steps, level.entropy / level.steps
        table.add_row(name, str(level.steps), f"{mass:.3f}", f"{spread:.3f}", right)
    console.print(table)
    if summary.outside:
        console.print(f"{summary.outside} images outside the tree left out")
    for threshold in SHOWN if summary.certainty else ():
        kept = [right for certainty, right in summary.judged if certainty >= threshold]
        share = 100 * sum(certainty >= threshold for certainty in summary.certainty) / len(summary.certainty)
        right = f", {100 * sum(kept) / len(kept):.1f} % of those with a label are right" if kept else ""
        console.print(f"path probability ≥ {threshold}: {share:.1f} % of the images{right}")
    if summary.scores:
        scores = "  ".join(f"{name.upper().replace('_', '-')} {summary.scores[name]:.2f}" for name in METRICS)
        console.print(f"the teacher's paths against the truth (percent of {summary.scores['n']}): {scores}")
