"""A training's curves, read from the CSV files that Lightning's logger leaves beside an adapter."""

import csv
from dataclasses import dataclass

from sekd.evaluation.students import Student


@dataclass(frozen=True)
class Curve:
    """One logged number over optimiser steps."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


def read_curves(student: Student) -> list[Curve]:
    """Every number that was logged more than once; none when the training left no log."""
    logs = sorted((student.adapter.parent / "logs").rglob("metrics.csv"), key=lambda log: log.stat().st_mtime)
    if not logs:
        return []
    points: dict[str, list[tuple[int, float]]] = {}
    with logs[-1].open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            for name, text in row.items():
                if text and name not in ("step", "epoch"):
                    points.setdefault(name, []).append((int(row["step"]), float(text)))
    return [
        Curve(name, *map(tuple, zip(*sorted(pairs), strict=True))) for name, pairs in points.items() if len(pairs) > 1
    ]


def thin(curve: Curve, *, most: int = 120) -> Curve:
    """The curve as means over at most ``most`` equal stretches: what a drawing can show."""
    size = -(-len(curve.steps) // most)
    stretches = range(0, len(curve.steps), size)
    steps = tuple(curve.steps[min(i + size // 2, len(curve.steps) - 1)] for i in stretches)
    values = tuple(sum(part) / len(part) for part in (curve.values[i : i + size] for i in stretches))
    return Curve(curve.name, steps, values)
