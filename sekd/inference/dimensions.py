"""A model's sizes, read from its configuration alone: what has to be known before an engine is started."""

from collections.abc import Sequence
from dataclasses import dataclass

from sekd.errors import SekdError
from sekd.models import ModelConfig


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
        raise SekdError(f"model {model.name}: no configuration could be read from {model.path!r} ({error})") from error
    text = config.get_text_config()
    stored = str(getattr(config, "dtype", None) or getattr(text, "dtype", None) or "bfloat16").removeprefix("torch.")
    return Dimensions(
        layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        dtype=stored if model.dtype == "auto" else model.dtype,
    )


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
