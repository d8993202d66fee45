"""The students of a run folder: every adapter below it, by student name and seed.

``runs/demo/adapter`` and ``runs/demo/seed3/adapter`` are trainings of the run's *student*;
``runs/demo/hard/seed0/adapter`` is one of another student named ``hard``.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from sekd.datasets.config import DataConfig
from sekd.errors import SekdError
from sekd.models import ADAPTER_FILES, ModelConfig, model_folder, tensor_shapes
from sekd.recent import CONFIG, read_settings

BASE, STUDENT = "base", "student"
SEED = re.compile(r"seed[-_]?\d+")
LAYER = re.compile(r"layers\.\d+\.[\w.]+?(?=\.(?:lora_[AB]|weight))")


@dataclass(frozen=True)
class TrainedStudent:
    """One training: ``name`` is shared by the trainings that differ in ``seed`` ("" where there is only one)."""

    name: str
    seed: str
    adapter: Path

    @property
    def training(self) -> Path:
        return self.adapter.parent

    @property
    def title(self) -> str:
        return f"{self.name} {self.seed}".strip()


def find_students(run: Path) -> list[TrainedStudent]:
    """Every adapter below a run folder, in stable order; with none, only the base is evaluated.

    Trainings with the same settings count once, in whichever folder.

    Raises:
        SekdError: a student has the base's name.
    """
    found = [_student(run, config.parent) for config in run.rglob("adapter/adapter_config.json")]
    for student in found:
        if student.name == BASE:
            raise SekdError(
                f"{student.adapter} is a student's, but {BASE!r} stands for the model without an adapter: rename the "
                f"folder {run / BASE}"
            )
    found = sorted(found, key=lambda student: (student.name != STUDENT, student.name, student.seed))
    return list({(student.name, _settings(student)): student for student in found}.values())


def _settings(student: TrainedStudent) -> str:
    """Identifies a training's settings: by its metrics' digest, else by its folder."""
    file = student.training / "metrics.json"
    recorded = json.loads(file.read_text(encoding="utf-8")).get("settings") if file.is_file() else None
    return recorded or str(student.adapter)


def _student(run: Path, adapter: Path) -> TrainedStudent:
    *arm, last = ("", *adapter.parent.relative_to(run).parts)
    seed = last if SEED.fullmatch(last) else ""
    name = "/".join(part for part in (*arm, "" if seed else last) if part)
    return TrainedStudent(name or STUDENT, seed, adapter)


def read_base(training: Path) -> ModelConfig:
    """The model that a training started from; a ``SekdError`` where its folder does not record it."""
    return replace(_recorded(training, "model", ModelConfig), adapter=None)


def read_data(training: Path) -> DataConfig:
    """The dataset that a training was distilled on; a ``SekdError`` where its folder does not record it."""
    return _recorded(training, "data", DataConfig)


def _recorded(training: Path, group: str, schema: Any) -> Any:
    if not (training / CONFIG).is_file():
        raise SekdError(f"{training} holds no {CONFIG} that says which {group} its adapter was trained with")
    try:
        return schema(**read_settings(training)[group])
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise SekdError(
            f"{training / CONFIG} does not say which {group} it was trained with: expected an entry {group!r} as in "
            f"conf/{group}"
        ) from error


def check_adapter(adapter: Path, model: ModelConfig) -> None:
    """Refuse an adapter for another base, before an engine starts: by the base's class, then by the matrices' shapes.

    Models of two families may have language models of the same shape, as Qwen2.5-VL and LLaVA-OneVision do at 7B.

    Raises:
        SekdError: the folder is no LoRA adapter, or one for another base; names the class or layer that does not fit.
    """
    about_file, weights = (adapter / name for name in ADAPTER_FILES)
    if not weights.is_file() or not about_file.is_file():
        raise SekdError(f"{adapter} is no LoRA adapter: expected {' and '.join(ADAPTER_FILES)} in it")
    about, folder = json.loads(about_file.read_text()), model_folder(model)
    trained_on = about.get("base_model_name_or_path")
    family = (about.get("auto_mapping") or {}).get("base_model_class")
    stated = folder / "config.json"
    own = json.loads(stated.read_text()).get("architectures") if stated.is_file() else None
    if family and own and family not in own:
        raise SekdError(
            f"{adapter} was trained for another family of models ({trained_on}, a {family}): {model.name} "
            f"({model.path}) is a {own[0]}. Give the model that it was trained from."
        )
    base = _language_layers(folder.glob("*.safetensors"))
    if not base:  # weights in another format: the engine checks them
        return
    for name, shape in tensor_shapes(weights).items():
        layer = _layer(name)
        inner, at = ("input", 1) if "lora_A" in name else ("output", 0)
        if layer not in base or shape[at] != base[layer][at]:
            found = f"an {inner} of {base[layer][at]}" if layer in base else "no such layer"
            raise SekdError(
                f"{adapter} was trained for another base ({trained_on}): its {layer} has an {inner} of {shape[at]}, "
                f"{model.name} ({model.path}) has {found}. Give the model that it was trained from."
            )


def _language_layers(files: Iterable[Path]) -> dict[str, list[int]]:
    """The language model's matrices by the common part of all namings: "layers.0.self_attn.q_proj" -> shape."""
    return {
        _layer(name): shape
        for file in files
        for name, shape in tensor_shapes(file).items()
        if LAYER.search(name) and len(shape) == 2 and "visual" not in name and "vision" not in name
    }


def _layer(name: str) -> str:
    found = LAYER.search(name)
    return found.group() if found else name
