"""The students of a run folder: every adapter below it, by the arm of the experiment and the seed it stands for.

``runs/demo/adapter`` and ``runs/demo/seed3/adapter`` are trainings of the run's *student*;
``runs/demo/hard/seed0/adapter`` is one of another student named ``hard``.
"""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from sekd.datasets.config import DataConfig
from sekd.errors import SekdError
from sekd.models import ModelConfig

STUDENT = "student"
SEED = re.compile(r"seed[-_]?\d+")


@dataclass(frozen=True)
class TrainedStudent:
    """One training: ``name`` is shared by the trainings that differ in ``seed`` ("" where there is only one)."""

    name: str
    seed: str
    adapter: Path


def find_students(run: Path) -> list[TrainedStudent]:
    """Every adapter below a run folder, in stable order; none is fine, the base is evaluated alone then.

    Trainings of one student with the very same settings count once, wherever they stand.
    """
    found = [_student(run, config.parent) for config in run.rglob("adapter/adapter_config.json")]
    found = sorted(found, key=lambda student: (student.name != STUDENT, student.name, student.seed))
    return list({(student.name, _settings(student)): student for student in found}.values())


def _settings(student: TrainedStudent) -> str:
    """Tells one training's settings from another's, as its metrics record it; where they do not, its folder does."""
    file = student.adapter.parent / "metrics.json"
    recorded = json.loads(file.read_text(encoding="utf-8")).get("settings") if file.is_file() else None
    return recorded or str(student.adapter)


def _student(run: Path, adapter: Path) -> TrainedStudent:
    *arm, last = ("", *adapter.parent.relative_to(run).parts)
    seed = last if SEED.fullmatch(last) else ""
    name = "/".join(part for part in (*arm, "" if seed else last) if part)
    return TrainedStudent(name or STUDENT, seed, adapter)


def read_base(training: Path) -> ModelConfig:
    """The model that a training started from, as its folder records it.

    Raises:
        SekdError: the folder records none.
    """
    return replace(_recorded(training, "model", ModelConfig), adapter=None)


def read_data(training: Path) -> DataConfig:
    """The dataset that a training was distilled on, as its folder records it.

    Raises:
        SekdError: the folder records none.
    """
    return _recorded(training, "data", DataConfig)


def _recorded(training: Path, group: str, schema: Any) -> Any:
    file = training / "config.yaml"
    try:
        return schema(**yaml.safe_load(file.read_text(encoding="utf-8"))[group])
    except FileNotFoundError:
        raise SekdError(
            f"{training} holds no config.yaml that says which {group} its adapter was trained with"
        ) from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise SekdError(
            f"{file} does not say which {group} it was trained with: expected an entry {group!r} as in conf/{group}"
        ) from error
