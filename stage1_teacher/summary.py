"""Summary of a complete pass, read from its store: size, answers, entropy, and scores where the truth is known."""

from collections import Counter
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from sekd.datasets import Dataset
from sekd.evaluation.certainty import JUDGED, path_certainties
from sekd.metrics import METRICS, per_path
from sekd.questions import LETTERS
from sekd.store import Layout, Store
from sekd.store.schema import SCORED, TOPK, topk_matrix
from stage1_teacher.teacher_modes import OUTSIDE

HEADINGS = ("level", "steps", "letter mass", "entropy (nats)", "right %")
SHOWN = (0.0, 0.5, 0.9, 0.99)  # thresholds on the probability of a path found by descent


def show_summary(store: Store, dataset: Dataset, console: Console) -> None:
    """Print sums over every shard's targets."""
    descent = store.layout.path_logprob
    labels = {example.id: example.path for example in dataset.examples if example.path} if descent else {}
    size, reasons, answers = 0, Counter[bool](), Counter[int]()
    levels: dict[str, Any] = {}  # sums over steps of what ``_steps`` returns
    images, scored = 0, list[dict[str, np.ndarray]]()  # the metrics of a shard's paths whose truth is known
    judged: list[tuple[float, bool | None]] = []
    for index in range(store.plan.n_shards):
        entry = store.entry(index)
        rows = store.read_targets(index, columns=list(dict.fromkeys((*SCORED, "depth", *(JUDGED if descent else ())))))
        size += sum(file["bytes"] for file in entry.files.values())
        reasons.update(reason.startswith(OUTSIDE) for reason in entry.skipped.values())
        answers.update(rows["answer"].to_pylist())
        steps, names = _steps(rows, store.layout), np.asarray(rows["level"].to_pylist())
        for name in dict.fromkeys(names.tolist()):
            levels[name] = levels.get(name, 0) + steps[names == name].sum(axis=0)
        judged += path_certainties(rows, labels) if descent else []
        by_sample = groupby(rows.drop_columns(list(TOPK)).to_pylist(), lambda row: row["sample"])
        paths = [_path(list(path), labels.get(sample)) for sample, path in by_sample]
        images += len(paths)
        if labelled := [path for path in paths if path[0]]:
            scored.append(per_path(*zip(*labelled, strict=True)))
    left_out = f", {reasons[False]} unreadable images left out" if reasons[False] else ""
    console.print(f"{images} images, {answers.total()} steps, {size / 1e6:.1f} MB{left_out}")
    shares = (f"{LETTERS[answer]} {100 * n / answers.total():.1f} %" for answer, n in sorted(answers.items()))
    console.print(f"answers: {'  '.join(shares)}")
    console.print(_table(levels))
    if reasons[True]:
        console.print(f"{reasons[True]} images outside the tree left out")
    for threshold in SHOWN if judged else ():
        kept = [right for probability, right in judged if probability >= threshold]
        known = [right for right in kept if right is not None]
        share = f", {100 * sum(known) / len(known):.1f} % of those with a label are right" if known else ""
        console.print(f"path probability ≥ {threshold}: {100 * len(kept) / len(judged):.1f} % of the images{share}")
    if scored:
        metrics = {name: np.concatenate([part[name] for part in scored]) for name in METRICS}
        shown = "  ".join(f"{name.upper().replace('_', '-')} {100 * metrics[name].mean():.2f}" for name in METRICS)
        console.print(f"the teacher's paths against the truth (percent of {len(metrics['hca'])}): {shown}")


def _table(levels: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "level" else "right")
    for name, (steps, mass, spread, known, right) in levels.items():
        share = f"{100 * right / known:.1f}" if known else "–"
        table.add_row(name, f"{steps:.0f}", f"{mass / steps:.3f}", f"{spread / steps:.3f}", share)
    return table


def _path(rows: list[dict[str, Any]], label: tuple[str, ...] | None) -> tuple[list[str], list[str]]:
    """An image's truth and answers. A store of descents holds no truth; the dataset's label is used, if any."""
    truth: list[str] = []
    if label:
        asked = [row["depth"] for row in rows if row["depth"] < len(label)]
        # An early stop leaves out the rest of the truth, which belongs to it.
        truth = [*(label[depth] for depth in asked), *label[rows[-1]["depth"] + 1 :]]
    elif all(row["truth"] >= 0 for row in rows):
        truth = [row["options"][row["truth"]] for row in rows]
    return truth, [row["options"][row["answer"]] for row in rows]


def _steps(rows: pa.Table, layout: Layout) -> np.ndarray:
    """For each row: 1, the letters' mass, their entropy, and whether truth is known and the answer right: [R, 5]."""
    probabilities_RO = letter_probabilities(rows, layout)
    truth_R, answer_R = (np.asarray(rows[name]) for name in ("truth", "answer"))
    ones_R, mass_R = np.ones(len(rows)), probabilities_RO.sum(axis=1)
    return np.stack([ones_R, mass_R, entropy(probabilities_RO), truth_R >= 0, truth_R == answer_R], axis=1)


def letter_probabilities(rows: pa.Table, layout: Layout) -> np.ndarray:
    """Probability of each option's letter [R, letters]; 0 for one outside the stored top k, or beyond the options."""
    ids_RK, logprobs_RK = topk_matrix(rows, "topk_ids"), topk_matrix(rows, "topk_logprobs").astype(np.float64)
    options_R = np.asarray([len(options) for options in rows["options"].to_pylist()])
    found = [
        np.where(ids_RK == letter, np.exp(logprobs_RK), 0.0).sum(axis=1) * (place < options_R)
        for place, letter in enumerate(layout.letter_ids)
    ]
    return np.stack(found, axis=1)


def entropy(probabilities_RO: np.ndarray) -> np.ndarray:
    """In nats [R], of each row's probabilities renormalised to 1; 0 where there are none."""
    total_R1 = probabilities_RO.sum(axis=1, keepdims=True)
    normal_RO = np.divide(probabilities_RO, total_R1, out=np.ones_like(probabilities_RO), where=probabilities_RO > 0)
    return -(normal_RO * np.log(normal_RO)).sum(axis=1)
