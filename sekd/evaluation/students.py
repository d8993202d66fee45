"""The students of a run folder: every adapter below it, by the arm of the experiment and the seed it stands for.

``runs/demo/adapter`` and ``runs/demo/seed3/adapter`` are trainings of the run's *student*;
``runs/demo/hard/seed0/adapter`` is one of another student named ``hard``.
"""

import re
from dataclasses import dataclass
from pathlib import Path

STUDENT = "student"
SEED = re.compile(r"seed[-_]?\d+")


@dataclass(frozen=True)
class Student:
    """One training: ``name`` is shared by the trainings that differ in ``seed`` ("" where there is only one)."""

    name: str
    seed: str
    adapter: Path


def find_students(run: Path) -> list[Student]:
    """Every adapter below a run folder, in stable order; none is fine, the base is evaluated alone then."""
    found = [_student(run, config.parent) for config in run.rglob("adapter/adapter_config.json")]
    return sorted(found, key=lambda student: (student.name != STUDENT, student.name, student.seed))


def _student(run: Path, adapter: Path) -> Student:
    *arm, last = ("", *adapter.parent.relative_to(run).parts)
    seed = last if SEED.fullmatch(last) else ""
    name = "/".join(part for part in (*arm, "" if seed else last) if part)
    return Student(name or STUDENT, seed, adapter)
