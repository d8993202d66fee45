"""How the numbers came about: training curves, and what they were made with."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sekd.evaluation.report.charts import Axis, Series, line_panel
from sekd.evaluation.report.document import Figure, Section, Table, Value
from sekd.evaluation.report.training import Curve, read_curves, thin
from sekd.evaluation.scores import Kept
from sekd.evaluation.students import Student


def training(students: Sequence[Student]) -> Section | None:
    """Every logged number of the trainings, one panel each, trainings on top of each other. None without a log."""
    curves = [(student, {curve.name: thin(curve) for curve in read_curves(student)}) for student in students]
    curves = [(student, found) for student, found in curves if found]
    names = sorted({name for _, found in curves for name in found}, key=_order)
    if not names:
        return None
    panels = [_panel(i, name, curves) for i, name in enumerate(names)]
    legend = [(i % 6, _title(student)) for i, (student, _) in enumerate(curves)]
    data: list[tuple[Value, ...]] = [
        (name, _title(student), f"{found[name].values[0]:.4g}", f"{found[name].values[-1]:.4g}", found[name].steps[-1])
        for name in names
        for student, found in curves
        if name in found
    ]
    figure = Figure(
        "Training curves",
        "Each panel is one logged number over optimiser steps, losses by kind and by level. Look for losses that "
        "still fall at the end (train longer) and for levels that lag behind.",
        panels,
        legend,
        Table("Training curves, first and last logged values", ("number", "training", "first", "last", "steps"), data),
    )
    return Section("training", "Training", figures=[figure])


def _panel(number: int, name: str, curves: Sequence[tuple[Student, dict[str, Curve]]]) -> str:
    found = [(i, student, each[name]) for i, (student, each) in enumerate(curves) if name in each]
    values = [value for _, _, curve in found for value in curve.values]
    low, high = min(0.0, *values), max(*values, 1e-9)
    last = max(curve.steps[-1] for _, _, curve in found)
    words = "; ".join(f"{_title(s)} from {c.values[0]:.3g} to {c.values[-1]:.3g}" for _, s, c in found)
    return line_panel(
        key=f"training-{number}",
        title=name,
        description=f"{name} over {last} optimiser steps: {words}.",
        x=Axis("optimiser step", 0, max(1, last)),
        y=Axis(_unit(name), low, high * 1.05),
        series=[Series(_title(s), c.steps, c.values, i % 6) for i, s, c in found],
    )


def provenance(run: Path, kept: Sequence[Kept], students: Sequence[Student]) -> Section:
    """What the generations were made with, the teacher's store, and each training's settings."""
    cells = [
        (f"{each.cell.tree} / {_model(each)} / {each.cell.paradigm}", each.cell.digest, len(each.generations))
        for each in kept
    ]
    facts = [(_model(each), each.cell.facts) for each in kept]
    tables = [
        Table("Kept generations", ("tree / model / way of asking", "digest", "images"), cells),
        Table("Settings and versions of the evaluation", ("setting", "value"), _told_once(facts)),
    ]
    settings = [(_title(student), found) for student in students if (found := _settings(student))]
    if settings:
        rows = _told_once(settings)
        tables.append(Table("Settings of the trainings, the teacher's store among them", ("setting", "value"), rows))
    text = [f"Run folder: {run}. Every score above is recomputed from the generations kept in it."]
    return Section("provenance", "Provenance", text, tables)


def _settings(student: Student) -> dict[str, Any] | None:
    import yaml

    file = student.adapter.parent / "config.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None


def _told_once(facts: Sequence[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, str]]:
    """Named settings as rows: once where all names share a value, otherwise once a value with the names it is of."""
    names: dict[tuple[str, str], list[str]] = {}
    for who, content in facts:
        for row in _flat(content):
            if who not in (told := names.setdefault(row, [])):
                told.append(who)
    everyone = {who for who, _ in facts}
    return [
        (setting if set(told) == everyone else f"{setting} ({', '.join(told)})", value)
        for (setting, value), told in sorted(names.items())
    ]


def _flat(content: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(content, Mapping):
        return [
            row for key, value in content.items() for row in _flat(value, f"{prefix}.{key}" if prefix else str(key))
        ]
    return [(prefix, json.dumps(content) if isinstance(content, list) else str(content))]


def _model(kept: Kept) -> str:
    return f"{kept.cell.model}/{kept.cell.seed}" if kept.cell.seed else kept.cell.model


def _title(student: Student) -> str:
    return f"{student.name} {student.seed}".strip()


def _order(name: str) -> tuple[int, int, str]:
    kinds = ("loss", "hard", "soft", "feat", "hidden")
    rank = next((i for i, kind in enumerate(kinds) if kind in name), len(kinds))
    return (0 if name.startswith("train") else 1, rank, name)


def _unit(name: str) -> str:
    if "accuracy" in name or "agreement" in name:
        return "share"
    return "nats" if any(kind in name for kind in ("hard", "soft")) else "value"
