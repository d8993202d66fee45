"""Refuses an adapter that was not trained on this base, before an engine is started for it."""

import json
import re
import struct
from collections.abc import Iterable
from pathlib import Path

from sekd.errors import SekdError
from sekd.models import ModelConfig, model_folder

WEIGHTS = "adapter_model.safetensors"
LAYER = re.compile(r"layers\.\d+\.[\w.]+?(?=\.(?:lora_[AB]|weight))")
Shape = tuple[int, ...]


def check_adapter(adapter: Path, model: ModelConfig) -> None:
    """The adapter's base must be of the model's class, and its matrices must fit the model's layers, name by name.

    Models of two families may have language models of the same shape, as Qwen2.5-VL and LLaVA-OneVision do at 7B.

    Raises:
        SekdError: the folder is no LoRA adapter, or one for another base; says which class or layer does not fit.
    """
    file = adapter / WEIGHTS
    if not file.is_file() or not (adapter / "adapter_config.json").is_file():
        raise SekdError(f"{adapter} is no LoRA adapter: expected adapter_config.json and {WEIGHTS} in it")
    about = json.loads((adapter / "adapter_config.json").read_text())
    trained_on = about.get("base_model_name_or_path")
    family, own = (about.get("auto_mapping") or {}).get("base_model_class"), _classes(model)
    if family and own and family not in own:
        raise SekdError(
            f"{adapter} was trained for another family of models ({trained_on}, a {family}): {model.name} "
            f"({model.path}) is a {own[0]}. Give the model that it was trained from."
        )
    base = _layers(sorted(model_folder(model).glob("*.safetensors")))
    if not base:  # weights in another format: the engine has the last word
        return
    for name, shape in read_shapes(file).items():
        layer = _layer(name)
        expected = base.get(layer)
        inner, at = ("input", 1) if "lora_A" in name else ("output", 0)
        if expected is None or shape[at] != expected[at]:
            found = "no such layer" if expected is None else f"an {inner} of {expected[at]}"
            raise SekdError(
                f"{adapter} was trained for another base ({trained_on}): its {layer} has an {inner} of {shape[at]}, "
                f"{model.name} ({model.path}) has {found}. Give the model that it was trained from."
            )


def read_shapes(file: Path) -> dict[str, Shape]:
    """Names and shapes of a safetensors file's tensors, from its header alone.

    Raises:
        SekdError: the file is no safetensors file.
    """
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
    except (OSError, struct.error, ValueError, MemoryError, OverflowError) as error:
        raise SekdError(f"{file} is no safetensors file ({error}): it may be cut off; copy it again") from error
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def _classes(model: ModelConfig) -> list[str]:
    """What the model's own configuration says it is an instance of; empty where it says nothing."""
    file = model_folder(model) / "config.json"
    return json.loads(file.read_text()).get("architectures") or [] if file.is_file() else []


def _layers(files: Iterable[Path]) -> dict[str, Shape]:
    """The language model's matrices by what all namings share: "layers.0.self_attn.q_proj" -> shape."""
    shapes = {name: shape for file in files for name, shape in read_shapes(file).items()}
    return {
        _layer(name): shape
        for name, shape in shapes.items()
        if LAYER.search(name) and len(shape) == 2 and "visual" not in name and "vision" not in name
    }


def _layer(name: str) -> str:
    found = LAYER.search(name)
    return found.group() if found else name
