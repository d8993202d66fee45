"""The sections that show a run's files beside its scores: images, training logs, and settings."""

import base64
import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from sekd.datasets.images import DECODE_ERRORS, decode
from sekd.evaluation.confusion import CHANGES
from sekd.evaluation.generations import Listed
from sekd.evaluation.report import plots
from sekd.evaluation.report.document import WORDS, Case, Section, Table, Value, section
from sekd.evaluation.report.sections import base_and_student, name_of
from sekd.evaluation.students import TrainedStudent

LARGEST = 320  # pixels on an image's longer side, sharp also on a high-resolution screen
SMALLEST = 160  # smaller images are enlarged, so that every browser shows the same smooth edges
POINTS = 120  # most points of a curve
KINDS = ("loss", "hard", "soft", "feat", "hidden")  # the order of the training curves


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
    buffer = io.BytesIO()
    picture.resize((width, height), Image.Resampling.LANCZOS).save(buffer, format="JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def training_curves(students: Sequence[TrainedStudent]) -> Section | None:
    """Every logged number of the trainings, one panel each. None without a log."""
    curves = {student.title: _read_curves(student) for student in students}
    names = sorted({name for found in curves.values() for name in found}, key=_order)
    if not names:
        return None
    panels = {
        name: [
            plots.Line(title, *found[name], i % len(plots.MARKS))
            for i, (title, found) in enumerate(curves.items())
            if name in found
        ]
        for name in names
    }
    data = [
        (name, line.name, f"{line.ys[0]:.4g}", f"{line.ys[-1]:.4g}", line.xs[-1])
        for name, lines in panels.items()
        for line in lines
    ]
    figure = Table(
        "Training curves, first and last logged values",
        ("number", "training", "first", "last", "steps"),
        data,
        WORDS["training"]["figure"],
        plots.lines(panels, "optimiser step", {name: _unit(name) for name in names}),
    )
    return section("training", [figure])


def _read_curves(student: TrainedStudent) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of every number that Lightning's CSV log holds more than once; empty without a log."""
    logs = sorted((student.training / "logs").rglob("metrics.csv"), key=lambda log: log.stat().st_mtime)
    points: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for log in logs[-1:]:
        with log.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                for name, text in row.items():
                    if text and name not in ("step", "epoch"):
                        points[name].append((int(row["step"]), float(text)))
    return {name: _thin(sorted(pairs)) for name, pairs in points.items() if len(pairs) > 1}


def _thin(pairs: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """The curve as means over at most ``POINTS`` equal stretches."""
    size = -(-len(pairs) // POINTS)
    stretches = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    return [part[len(part) // 2][0] for part in stretches], [sum(y for _, y in part) / len(part) for part in stretches]


def _order(name: str) -> tuple[bool, int, str]:
    rank = next((i for i, kind in enumerate(KINDS) if kind in name), len(KINDS))
    return (not name.startswith("train"), rank, name)


def _unit(name: str) -> str:
    if "accuracy" in name or "agreement" in name:
        return "share"
    return "nats" if any(kind in name for kind in ("hard", "soft")) else "value"


def provenance(run: Path, cells: Sequence[Listed], students: Sequence[TrainedStudent]) -> Section | None:
    """Settings of the generations, the teacher's store, and each training."""
    kept = [
        (
            f"{each.cell.tree} / {each.cell.who} / {each.cell.paradigm}",
            each.cell.digest,
            None if each.keys is None else len(each.keys),
        )
        for each in cells
    ]
    evaluated = _settings((each.cell.who, each.cell.facts) for each in cells)
    tables = [
        Table("Kept generations", ("tree / model / way of asking", "digest", "images"), kept),
        Table("Settings and versions of the evaluation", ("setting", "value"), evaluated),
    ]
    files = [(student.title, student.training / "config.yaml") for student in students]
    trained = [(title, yaml.safe_load(file.read_text(encoding="utf-8"))) for title, file in files if file.is_file()]
    if trained:
        title = "Settings of the trainings, the teacher's store among them"
        tables.append(Table(title, ("setting", "value"), _settings(trained)))
    return section("provenance", tables, run=run)


def _settings(facts: Iterable[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, str]]:
    """Settings as rows: one where all share a value, otherwise one a value with the names of those that have it."""
    names: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    everyone = set()
    for who, content in facts:
        everyone.add(who)
        for row in _flat(content):
            names[row][who] = None
    return [
        (setting if set(these) == everyone else f"{setting} ({', '.join(these)})", value)
        for (setting, value), these in sorted(names.items())
    ]


def _flat(content: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(content, Mapping):
        return [row for key, each in content.items() for row in _flat(each, f"{prefix}.{key}" if prefix else str(key))]
    return [(prefix, json.dumps(content) if isinstance(content, list) else str(content))]
