"""The section with a training's curves. Needs no engine, so that stage 2 can draw it too."""

import csv
from collections import defaultdict
from collections.abc import Sequence

from sekd.evaluation.report import plots
from sekd.evaluation.report.document import WORDS, Section, Table, section
from sekd.evaluation.students import TrainedStudent

POINTS = 120  # most points of a curve
KINDS = ("loss", "hard", "soft", "hidden", "format", "requests")  # the order of the training curves


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
    return "nats" if any(kind in name for kind in ("hard", "soft", "format", "requests")) else "value"
