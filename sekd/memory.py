"""Estimate the memory that a teacher pass and a student need, before any weight is loaded.

Weights are counted from the headers of the safetensors files, everything else from the model's configuration.
``RESERVED_GIB`` stands for the driver, the allocator and the libraries.

Shape legend: L decoder layers, D hidden size, F intermediate size, Q and K widths of queries and of keys.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sekd.errors import SekdError
from sekd.machine import card_gib
from sekd.models import ModelConfig, model_folder, tensor_shapes, unreadable

GIB = 2**30
RESERVED_GIB = 1.0
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Bytes that a decoder layer of the Llama type keeps for the backward pass, a token, for each unit of D, F, Q and K:
# frozen weights, LoRA on all seven projections. Counted by autograd's saved tensors; with LoRA dropout, its masks too.
SAVED = {"float32": (16, 16, 8, 8), "bfloat16": (19, 8.4, 6.3, 4.3)}
SAVED_DROPOUT = {"float32": (32, 4, 8, 0), "bfloat16": (20, 4, 4, 0)}


@dataclass(frozen=True)
class ModelSize:
    parameters: int
    layers: int
    hidden: int
    intermediate: int
    query: int
    key: int
    vocab: int
    dtype: str


@dataclass(frozen=True)
class Estimate:
    """Memory of one process by use, in bytes, and how much the device has."""

    parts: dict[str, float]
    available: float
    device: str

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / GIB:.2g}" for name, size in self.parts.items() if size > GIB / 1000)
        return f"memory, estimated: {self.total / GIB:.1f} of {self.available / GIB:.1f} GiB on {self.device} ({parts})"

    def check(self, advice: str) -> None:
        """Raise a ``SekdError`` that ends with the advice where the sum is more than the device has."""
        if self.total > self.available * (1 + 1e-9):  # a cache of all the memory that is left fits
            raise SekdError(f"{self}: this cannot fit; {advice}")


def read_size(model: ModelConfig, *, count: bool = True) -> ModelSize:
    """A model's size from its folder, without reading a weight; its type is the one that "auto" stands for.

    Without ``count`` the parameters are 0, and no file of weights need be there.

    Raises:
        SekdError: the folder has no configuration or no safetensors files.
    """
    from transformers import AutoConfig

    folder = model_folder(model)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError) as error:
        raise unreadable(model, "configuration", error) from error
    text = config.get_text_config()
    stored = str(getattr(config, "dtype", None) or getattr(text, "dtype", None) or "bfloat16").removeprefix("torch.")
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return ModelSize(
        parameters=_count_parameters(folder) if count else 0,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        query=heads * width,
        key=(getattr(text, "num_key_value_heads", None) or heads) * width,
        vocab=text.vocab_size,
        dtype=stored if model.dtype == "auto" else model.dtype,
    )


def _count_parameters(folder: Path) -> int:
    """Parameters in a folder's safetensors files, from the files' headers."""
    shapes = (shape for file in folder.glob("*.safetensors") for shape in tensor_shapes(file).values())
    if not (count := sum(map(math.prod, shapes))):
        raise SekdError(f"{folder} holds no *.safetensors: expected a model saved by transformers")
    return count


def read_ahead_memory(image: float, *, buffer: int, workers: int, ahead: int, processes: int) -> Estimate:
    """What the machine holds of batches, where one image of them takes ``image`` bytes.

    Each worker has ``ahead`` buffers and a copy of the one it sends; the process that trains has one and the next.
    """
    buffers = processes * (workers * (ahead + 1) + 2)
    return Estimate({"batches read ahead": image * buffer * buffers}, *device_bytes(cuda=False))


def device_bytes(*, cuda: bool) -> tuple[float, str]:
    """Memory of the first GPU, or of the machine, and its name in words."""
    if cuda and (card := card_gib()):
        return card * GIB, "the GPU"
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "this machine"


def lora_parameters(size: ModelSize, rank: int, targets: Sequence[str]) -> int:
    """Parameters of a LoRA adapter on the named projections of every decoder layer: rank · (inputs + outputs) each."""
    query, key, mlp = size.hidden + size.query, size.hidden + size.key, size.hidden + size.intermediate
    widths = {"q_proj": query, "k_proj": key, "v_proj": key, "o_proj": query}
    widths |= {"gate_proj": mlp, "up_proj": mlp, "down_proj": mlp}
    return size.layers * rank * sum(widths.get(name, 0) for name in targets)


def saved_bytes(size: ModelSize, dtype: str, *, dropout: bool) -> float:
    """Bytes that one decoder layer keeps a token for the backward pass."""
    widths = (size.hidden, size.intermediate, size.query, size.key)
    factors = zip(SAVED[dtype], SAVED_DROPOUT[dtype], strict=True)
    return sum(n * (kept + dropout * masks) for n, (kept, masks) in zip(widths, factors, strict=True))


def student_memory(
    size: ModelSize,
    *,
    dtype: str,
    tokens: int,
    positions: int,
    rank: int,
    targets: Sequence[str],
    dropout: bool,
    checkpointing: bool,
    cuda: bool,
    shards: int = 1,
) -> Estimate:
    """What one process of stage 2 needs at the peak of a step.

    Args:
        dtype: of the frozen weights, "float32" or "bfloat16".
        tokens: tokens of one batch, padding included.
        positions: positions of one batch at which logits are computed (answers and format tokens).
        shards: processes that share the frozen weights.
    """
    layer = tokens * saved_bytes(size, dtype, dropout=dropout)
    kept = size.layers * (tokens * size.hidden * BYTES[dtype] if checkpointing else layer)
    parts = {
        "frozen weights": size.parameters * BYTES[dtype] / shards,
        # Weights, gradients and AdamW's two moments in float32, whole in every process.
        "LoRA and optimiser": 16 * lora_parameters(size, rank, targets),
        # Saved for the backward pass, and one layer's gradients during it.
        "activations": kept + (2 if checkpointing else 1) * layer,
        # Logits, their softmax and its gradient, in float32.
        "logits": 3 * 4 * positions * size.vocab,
        "reserved": RESERVED_GIB * GIB,
    }
    if shards > 1:
        # Embeddings and head, the current layer and the next one.
        whole = 2 * size.vocab * size.hidden + 2 * size.parameters / size.layers
        parts["gathered weights"] = whole * BYTES[dtype]
    return Estimate(parts, *device_bytes(cuda=cuda))
