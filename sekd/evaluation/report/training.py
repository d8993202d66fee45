"""How the models came about: training curves, and the settings of evaluation and trainings."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sekd.evaluation.generations import Listed
from sekd.evaluation.report import plots
from sekd.evaluation.report.document import Section, Table, Value
from sekd.evaluation.students import TrainedStudent

Curve = tuple[list[int], list[float]]  # optimiser steps and values
POINTS = 120  # of a curve at most: what a plot can show


def training_curves(students: Sequence[TrainedStudent]) -> Section | None:
    """Every logged number of the trainings, one panel each. None without a log."""
    curves = {_title(student): read_curves(student) for student in students}
    names = sorted({name for found in curves.values() for name in found}, key=_order)
    if not names:
        return None
    styles = {title: i % plots.STYLES for i, title in enumerate(curves)}
    shown = [(name, title, found[name]) for name in names for title, found in curves.items() if name in found]
    panels = {
        name: [plots.Line(title, *curve, styles[title]) for each, title, curve in shown if each == name]
        for name in names
    }
    data: list[Sequence[Value]] = [
        (name, title, f"{values[0]:.4g}", f"{values[-1]:.4g}", steps[-1]) for name, title, (steps, values) in shown
    ]
    title = "Training curves, first and last logged values"
    figure = Table(
        title,
        ("number", "training", "first", "last", "steps"),
        data,
        "Each panel is one logged number over optimiser steps, losses by kind and by level. Look for losses that "
        "still fall at the end (train longer) and for levels that lag behind.",
        plots.svg(plots.lines(panels, "optimiser step", {name: _unit(name) for name in names}), title),
    )
    return Section("training", "Training curves", tables=[figure])


def read_curves(student: TrainedStudent) -> dict[str, Curve]:
    """Every number that Lightning's CSV log beside the adapter holds more than once; empty without a log."""
    logs = sorted((student.adapter.parent / "logs").rglob("metrics.csv"), key=lambda log: log.stat().st_mtime)
    if not logs:
        return {}
    points: dict[str, list[tuple[int, float]]] = {}
    with logs[-1].open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            for name, text in row.items():
                if text and name not in ("step", "epoch"):
                    points.setdefault(name, []).append((int(row["step"]), float(text)))
    return {name: _thin(sorted(pairs)) for name, pairs in points.items() if len(pairs) > 1}


def _thin(pairs: Sequence[tuple[int, float]]) -> Curve:
    """The curve as means over at most ``POINTS`` equal stretches."""
    size = -(-len(pairs) // POINTS)
    stretches = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    return [part[len(part) // 2][0] for part in stretches], [sum(y for _, y in part) / len(part) for part in stretches]


def provenance(run: Path, cells: Sequence[Listed], students: Sequence[TrainedStudent]) -> Section:
    """What the generations were made with, the teacher's store, and each training's settings."""
    facts = [(_model(each), each.cell.facts) for each in cells]
    kept: list[Sequence[Value]] = [
        (
            f"{each.cell.tree} / {_model(each)} / {each.cell.paradigm}",
            each.cell.digest,
            None if each.keys is None else len(each.keys),
        )
        for each in cells
    ]
    tables = [
        Table("Kept generations", ("tree / model / way of asking", "digest", "images"), kept),
        Table("Settings and versions of the evaluation", ("setting", "value"), _settings(facts)),
    ]
    files = [(_title(student), student.adapter.parent / "config.yaml") for student in students]
    trained = [(title, yaml.safe_load(file.read_text(encoding="utf-8"))) for title, file in files if file.is_file()]
    if trained:
        title = "Settings of the trainings, the teacher's store among them"
        tables.append(Table(title, ("setting", "value"), _settings(trained)))
    text = [f"Run folder: {run}. Every score above is that of its scores.json, made from the generations kept in it."]
    return Section("provenance", "Provenance", text, tables)


def _settings(facts: Sequence[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, str]]:
    """Settings as rows: one where all share a value, otherwise one a value with the names of those that have it."""
    names: dict[tuple[str, str], dict[str, None]] = {}
    for who, content in facts:
        for row in _flat(content):
            names.setdefault(row, {})[who] = None
    everyone = {who for who, _ in facts}
    return [
        (setting if set(these) == everyone else f"{setting} ({', '.join(these)})", value)
        for (setting, value), these in sorted(names.items())
    ]


def _flat(content: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(content, Mapping):
        return [row for key, each in content.items() for row in _flat(each, f"{prefix}.{key}" if prefix else str(key))]
    return [(prefix, json.dumps(content) if isinstance(content, list) else str(content))]


def _model(listed: Listed) -> str:
    return f"{listed.cell.model}/{listed.cell.seed}" if listed.cell.seed else listed.cell.model


def _title(student: TrainedStudent) -> str:
    return f"{student.name} {student.seed}".strip()


def _order(name: str) -> tuple[bool, int, str]:
    kinds = ("loss", "hard", "soft", "feat", "hidden")
    rank = next((i for i, kind in enumerate(kinds) if kind in name), len(kinds))
    return (not name.startswith("train"), rank, name)


def _unit(name: str) -> str:
    if "accuracy" in name or "agreement" in name:
        return "share"
    return "nats" if any(kind in name for kind in ("hard", "soft")) else "value"
