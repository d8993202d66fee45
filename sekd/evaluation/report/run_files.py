"""The sections that show a run's files beside its scores: images, and the teacher's pass."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sekd.datasets import DataConfig, load_dataset
from sekd.datasets.images import DECODE_ERRORS, data_uri, decode
from sekd.errors import SekdError
from sekd.evaluation.behaviour import CHANGES
from sekd.evaluation.certainty import JUDGED, choose_threshold, coverage_curve, path_certainties
from sekd.evaluation.report import plots
from sekd.evaluation.report.document import WORDS, Case, Section, Table, Value, section
from sekd.evaluation.report.sections import base_and_student, name_of
from sekd.evaluation.students import TrainedStudent, read_data
from sekd.recent import read_settings
from sekd.store import Store

LARGEST = 320  # pixels on an image's longer side, sharp also on a high-resolution screen
SMALLEST = 160  # smaller images are enlarged, so that every browser shows the same smooth edges
PRECISIONS = (90, 95, 99)  # percent
ROWS = 10  # of the table of certainty, at even distances in coverage


def cases(scores: dict[str, Any], roots: Mapping[str, Path]) -> Section | None:
    """The paper's Figure 5 for these models: images with their answers. None where no image's truth is known.

    Args:
        roots: tree, as ``trees`` names it -> the folder that its images' paths start from.
    """
    kinds = [name for name, _ in CHANGES.values()]
    shown: list[Case] = []
    counts: list[Sequence[Value]] = []
    ways: dict[str, None] = {}
    for tree, cells in base_and_student(scores).items():
        for model, way, cell in cells:
            if found := cell.get("from_base_joint"):
                ways[name_of(model, way)] = None
                counts.append((tree, *(found[kind]["n"] for kind in kinds)))
                shown += [
                    _case(f"{tree}: {kind.replace('_', ' ')}", example, roots[tree])
                    for kind in kinds
                    for example in found[kind]["examples"]
                ]
    columns = ("tree", *(kind.replace("_", " ") for kind in kinds))
    table = Table("What became of the base's one-pass answers, images", columns, counts)
    before, after = name_of("base", "joint"), ", ".join(ways)
    return section("cases", [table] if counts else [], cases=shown, before=before, after=after)


def _case(title: str, example: dict[str, Any], root: Path) -> Case:
    levels, truth = example["levels"], example["true"]
    image = _embed(root / example["image"])
    words = f"Image {example['sample']}: {', '.join(map(' '.join, zip(levels, truth, strict=True)))}."
    answered = {name_of(model, way): names for model, by in example["answers"].items() for way, names in by.items()}
    paths = {"True path": [(level, name, None) for level, name in zip(levels, truth, strict=True)]} | {
        who: [(level, n or "no readable answer", n == t) for level, t, n in zip(levels, truth, names, strict=True)]
        for who, names in answered.items()
    }
    missing = f"The image {example['image']} was not found below {root}."
    return Case(f"{title} ({example['sample']})", image, words if image else missing, paths)


def _embed(file: Path) -> str | None:
    """The image as a data URI; None where it is missing or is no image."""
    try:
        picture = decode(file)
    except DECODE_ERRORS:
        return None
    longest = max(picture.size)
    scale = LARGEST / longest if longest > LARGEST else max(1.0, SMALLEST / longest)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return data_uri(picture.resize((width, height), Image.Resampling.LANCZOS), quality=82)


def certainty(students: Sequence[TrainedStudent]) -> Section | None:
    """Coverage and precision by path probability, of the pass that the first student was distilled from.

    None if that pass had labels. Precision is known of images with a label, and is left out where there is none.
    """
    data = data_of(students)
    if data is None or not data.by_descent:
        return None
    labels = {example.id: example.path for example in load_dataset(data, "train").examples if example.path}
    settings = read_settings(students[0].training)
    store = Store.open(Path(settings["artifacts"], data.name, settings["fingerprint"]))
    shards = (store.read_targets(shard, list(JUDGED)) for shard in range(store.plan.n_shards))
    judged = [path for rows in shards for path in path_certainties(rows, labels)]
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
    advice = [_advice(known, share) for share in PRECISIONS] if known else []
    return section("certainty", [table], more=advice, images=len(judged), labelled=len(known))


def _advice(known: Sequence[tuple[float, bool]], precision: int) -> str:
    threshold = choose_threshold(*zip(*known, strict=True), precision=precision)
    if threshold is None:
        return f"No threshold keeps images of which {precision} % are right."
    return f"min_path_probability={math.floor(1e6 * threshold) / 1e6} keeps images of which {precision} % are right."


def data_of(students: Sequence[TrainedStudent]) -> DataConfig | None:
    """The data that the first student was distilled on; None where its folder does not record them."""
    try:
        return read_data(students[0].training) if students else None
    except SekdError:
        return None
