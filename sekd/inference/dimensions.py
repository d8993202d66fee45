"""Sizes of a model and its adapters from their configuration files, before an engine is started."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sekd.errors import SekdError
from sekd.models import ModelConfig, unreadable


@dataclass(frozen=True)
class Dimensions:
    """Decoder layers, hidden size, vocabulary (rows of the head), and the type that "auto" stands for."""

    layers: int
    hidden_size: int
    vocab_size: int
    dtype: str


def read_dimensions(model: ModelConfig) -> Dimensions:
    """Sizes of the language model inside a vision-language model.

    Raises:
        SekdError: no configuration can be read.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise unreadable(model, "configuration", error) from error
    text = config.get_text_config()
    stored = str(getattr(config, "dtype", None) or getattr(text, "dtype", None) or "bfloat16").removeprefix("torch.")
    dtype = stored if model.dtype == "auto" else model.dtype
    return Dimensions(text.num_hidden_layers, text.hidden_size, text.vocab_size, dtype)


def resolve_layers(requested: Sequence[int], dimensions: Dimensions, *, name: str) -> tuple[int, ...]:
    """Layer ids, ascending, of which negative ones count from the last: -1 is the last decoder layer.

    Raises:
        SekdError: a layer that the model does not have; says which it has.
    """
    resolved = sorted({layer if layer >= 0 else dimensions.layers + 1 + layer for layer in requested})
    if any(not 0 <= layer <= dimensions.layers for layer in resolved):
        raise SekdError(
            f"layers={list(requested)}: model {name} has decoder layers 1 to {dimensions.layers} "
            f"(-1 is the last; 0 is its embeddings)"
        )
    return tuple(resolved)


def adapter_rank(adapter: Path | None) -> int:
    """The rank of a LoRA adapter, which the engine needs at its start; 0 for none.

    Raises:
        SekdError: the folder holds no adapter.
    """
    if adapter is None:
        return 0
    file = adapter / "adapter_config.json"
    if not file.is_file():
        raise SekdError(f"{adapter} is no LoRA adapter: expected adapter_config.json in it, as `make student` writes")
    return int(json.loads(file.read_text())["r"])
