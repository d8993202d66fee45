"""The section about a pass without labels: how sure its paths are, and what keeping the sure ones alone gives."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from sekd.datasets import DataConfig, load_dataset
from sekd.errors import SekdError
from sekd.evaluation.report import plots
from sekd.evaluation.report.document import WORDS, Section, Table, section
from sekd.evaluation.students import TrainedStudent, read_data
from sekd.stopping import choose_threshold, coverage_curve
from sekd.store import Store
from sekd.store.schema import PATH_LOGPROB
from sekd.taxonomy import Names, fold

PRECISIONS = (90, 95, 99)  # percent
ROWS = 10  # of the table, at even distances in coverage


def certainty(students: Sequence[TrainedStudent]) -> Section | None:
    """Coverage and precision by path probability, of the pass that the first student was distilled from.

    None if that pass had labels. Precision is known of images with a label, and is left out where there is none.
    """
    data = data_of(students)
    if data is None or not data.by_descent:
        return None
    dataset = load_dataset(data, "train")
    settings = yaml.safe_load((students[0].training / "config.yaml").read_text(encoding="utf-8"))
    store = Store.open(Path(settings["artifacts"], data.name, settings["fingerprint"]))
    judged = path_certainties(store, {example.id: example.path for example in dataset.examples if example.path})
    known = [(probability, right) for probability, right in judged if right is not None]
    curve = coverage_curve(*zip(*(known or [(probability, False) for probability, _ in judged]), strict=True))
    thresholds, coverage, precision = curve["threshold"], curve["coverage"], curve["precision"] if known else None
    shown = sorted({int(np.searchsorted(coverage, share - 1e-9)) for share in np.linspace(100 / ROWS, 100, ROWS)})
    rows = [
        (f"{thresholds[i]:.4f}", coverage[i], precision[i] if precision else None) for i in shown if i < len(coverage)
    ]
    title, words = "Images kept by the probability of their path", WORDS["certainty"]
    columns = ("path probability of at least", "images kept, %", "of them right, as far as they go, %")
    plot = None
    if precision:
        line = plots.Line("the teacher's answers", coverage, precision, 3)
        plot = plots.lines({"Right among those kept": [line]}, "images kept (%)", "right (%)")
    table = Table(title, columns, rows, words["known" if known else "unknown"], plot)
    advice = [_advice(known, precision) for precision in PRECISIONS] if known else []
    return section("certainty", [table], more=advice, images=len(judged), labelled=len(known))


def _advice(known: Sequence[tuple[float, bool]], precision: int) -> str:
    """The threshold to take, as a sentence."""
    try:
        threshold = choose_threshold(*zip(*known, strict=True), precision=precision)
    except SekdError:
        return f"No threshold keeps images of which {precision} % are right."
    return f"min_path_probability={math.floor(1e6 * threshold) / 1e6} keeps images of which {precision} % are right."


def data_of(students: Sequence[TrainedStudent]) -> DataConfig | None:
    """The data that the first student was distilled on; None where its folder does not record them."""
    try:
        return read_data(students[0].training) if students else None
    except SekdError:
        return None


def path_certainties(store: Store, labels: Mapping[str, Names]) -> list[tuple[float, bool | None]]:
    """Of every image of a pass by descent: the probability of its path, and whether the teacher's answers are right.

    Args:
        labels: true path by sample, as far as known; None is returned for the others.
    """
    found = []
    for shard in range(store.plan.n_shards):
        columns = ["sample", "step", "n_steps", "depth", "options", "answer", PATH_LOGPROB]
        right = True
        for row in store.read_targets(shard, columns).to_pylist():
            right = right or row["step"] == 0
            if (label := labels.get(row["sample"])) is not None:
                answer = row["options"][row["answer"]]
                right &= row["depth"] < len(label) and fold(label[row["depth"]]) == fold(answer)
            if row["step"] == row["n_steps"] - 1:
                found.append((math.exp(row[PATH_LOGPROB]), None if label is None else right))
    return found
