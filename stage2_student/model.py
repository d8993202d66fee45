"""The student: a frozen vision-language model with LoRA on its language model, read only at answer positions.

Shape legend: B images, T tokens, N answer positions, M other answer tokens, R layers, D hidden size, V vocabulary,
A other requests.
"""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import DeviceMesh

from sekd.errors import SekdError
from stage2_student.batch import Batch
from stage2_student.config import LoraSettings
from stage2_student.decode import PromptBatch, answer, decode_greedily

SEEN = "mm_encoder_outputs"  # the input of transformers' forward that replaces pixels by the vision tower's output
DEEP = "deepstack_features"  # Qwen3-VL: outputs of earlier layers of the tower
Inputs = dict[str, Any]


@dataclass(frozen=True)
class States:
    """The outputs of a forward pass that the losses need. ``last`` states are after the final norm, as the head reads
    them.

    ``layers`` are [N, D] each and numbered as in the store: layer i is transformers' ``hidden_states[i]``, and the last
    layer is *before* the final norm. ``replies`` are the last states where the replies to other requests begin, the
    student's and its base's.
    """

    last_ND: Tensor
    layers: dict[int, Tensor]
    format_MD: Tensor | None
    replies: tuple[Tensor, Tensor] | None = None


class Student(nn.Module):
    """A PEFT model around a VLM of transformers. The head is applied to gathered positions, never to all tokens."""

    def __init__(self, vlm: Any, lora: LoraSettings, *, gradient_checkpointing: bool = False) -> None:
        super().__init__()
        from peft import LoraConfig, get_peft_model

        decode_greedily(vlm)
        pattern = target_pattern(vlm, lora.targets)
        settings = LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=pattern, bias="none"
        )
        self.vlm = get_peft_model(vlm, settings)
        if gradient_checkpointing:
            # After PEFT, which would have every embedding's output require a gradient, as transformers does here. Only
            # reentrant checkpoints need it, and the frozen vision tower would be computed again in the backward pass.
            vlm.gradient_checkpointing_enable({"use_reentrant": False})
            vlm.disable_input_require_grads()
        self.sharded = False

    @property
    def base(self) -> Any:
        """The VLM itself, with the adapter's layers in it."""
        return self.vlm.get_base_model()

    @property
    def decoder(self) -> Any:
        return self.base.get_decoder()

    @property
    def norm(self) -> nn.Module:
        return self.decoder.norm

    @property
    def head(self) -> Any:
        """Hidden states after the final norm to logits, frozen."""
        return self.base.get_output_embeddings()

    @property
    def blocks(self) -> list[nn.Module]:
        """The layers of the decoder and of the vision tower, as transformers divides the model, inner ones first."""
        kinds = {*self.base._no_split_modules, *(type(layer).__name__ for layer in self.decoder.layers)}
        return [module for module in self.base.modules() if type(module).__name__ in kinds][::-1]

    @property
    def n_layers(self) -> int:
        return len(self.decoder.layers)

    def forward(self, batch: Batch, *, layers: Sequence[int] = (), with_format: bool = True) -> States:
        """States at the answer positions; ``layers`` as the store numbers them."""
        joint, replies = batch.inputs, None
        if batch.requests is not None:
            asked = batch.requests.inputs
            if takes_vision(self.base.model):
                joint, asked = seen_once(self.base.model, joint, asked)
            replies = self._replies(asked, batch.requests.replies_A)
        with self._layer_outputs(layers) as seen:
            last_BTD = self._last(joint)
        answers, others = ((at.rows, at.places) for at in (batch.answer_positions, batch.format_positions))
        return States(
            last_ND=last_BTD[answers],
            layers={layer: seen[layer][answers] for layer in layers},
            format_MD=last_BTD[others] if with_format else None,
            replies=replies,
        )

    def answer(self, tokenizer: Any, asked: PromptBatch) -> list[str]:
        return answer(self.vlm, tokenizer, asked, in_step=self.sharded)

    def save(self, weights: Mapping[str, Tensor], folder: Path, *, base: str) -> None:
        """Write a PEFT adapter that transformers and vLLM load, of weights named as in Lightning's module."""
        self.vlm.peft_config["default"].base_model_name_or_path = base
        named = {name.removeprefix("student.vlm."): value for name, value in weights.items()}
        self.vlm.save_pretrained(str(folder), state_dict=named, save_embedding_layers=False)

    def shard(self, mesh: DeviceMesh) -> None:
        """Keep only a part of every frozen weight, and gather the others' parts block by block in each pass.

        All processes of the mesh must then make the same calls of ``forward`` and ``answer``. Both also gather what
        belongs to no block, such as the head, which stays until the backward pass is over.
        """
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        trained = {weights for weights in self.parameters() if weights.requires_grad}
        for module in (*self.blocks, self):
            fully_shard(module, mesh=mesh, ignored_params=trained)
        register_fsdp_forward_method(self, "answer")
        self.sharded = True

    def _replies(self, inputs: Inputs, replies_A: Tensor) -> tuple[Tensor, Tensor]:
        """The student's and its base's last states where each reply begins, [A, D] each."""
        rows_A = torch.arange(len(replies_A), device=replies_A.device)
        with torch.no_grad(), self.vlm.disable_adapter():
            base_AD = self._last(inputs)[rows_A, replies_A]
        return self._last(inputs)[rows_A, replies_A], base_AD

    def _last(self, inputs: Inputs) -> Tensor:
        """The last states [B, T, D] of every token, after the final norm."""
        return self.base.model(**inputs, use_cache=False).last_hidden_state

    @contextmanager
    def _layer_outputs(self, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
        """The outputs [B, T, D] of the given layers in the pass that runs inside, without recomputations."""
        seen: dict[int, Tensor] = {}

        def watch_input(_: Any, args: tuple, kwargs: dict) -> None:
            seen[0] = args[0] if args else kwargs["hidden_states"]

        def watch_output(layer: int) -> Any:
            def watch(_: Any, __: Any, output: Any) -> None:
                seen[layer] = output[0] if isinstance(output, tuple) else output

            return watch

        modules = self.decoder.layers
        hooks = [modules[layer - 1].register_forward_hook(watch_output(layer)) for layer in layers if layer]
        if 0 in layers:
            hooks.append(modules[0].register_forward_pre_hook(watch_input, with_kwargs=True))
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()


def target_pattern(vlm: Any, targets: Sequence[str]) -> str:
    """The regular expression by which PEFT finds the language model's layers of these names, and no others.

    Raises ``SekdError`` where the language model has no linear layer of one of the names.
    """
    decoder = vlm.get_decoder()
    prefix = next(name for name, module in vlm.named_modules() if module is decoder)
    found = {name.rsplit(".", 1)[-1] for name, module in decoder.named_modules() if isinstance(module, nn.Linear)}
    if unknown := sorted(set(targets) - found) or not targets:
        raise SekdError(f"lora.targets: the language model has no linear layers {unknown}; it has {sorted(found)}")
    return rf"{re.escape(prefix)}\..*\.({'|'.join(map(re.escape, targets))})"


def takes_vision(body: Any) -> bool:
    """Whether a model of transformers takes its vision tower's output as an input."""
    takes = SEEN in inspect.signature(body.forward).parameters and hasattr(body, "get_image_features")
    return takes and hasattr(getattr(body, "config", None), "image_token_id")


def seen_once(body: Any, inputs: Inputs, asked: Inputs) -> tuple[Inputs, Inputs]:
    """Both inputs with the frozen tower's output in place of pixels, so that it computes an image once.

    Args:
        body: a model of transformers that ``takes_vision``.
        inputs: those of a batch, one image a row; ``asked``: those of a prompt about each of its first images.
    """
    takes = inspect.signature(body.get_image_features).parameters
    others = {name: value for name, value in inputs.items() if name in takes and name != "pixel_values"}
    with torch.no_grad():
        seen = body.get_image_features(inputs["pixel_values"], **others, return_dict=True)
    tokens = int((asked["input_ids"] == body.config.image_token_id).sum())

    def first(output: Any) -> Any:
        """The part about the first images: of the tokens of all images in line, or of a list by image."""
        in_line = isinstance(output, Tensor)
        return output.flatten(0, -2)[:tokens] if in_line else output[: len(asked["input_ids"])]

    part = copy(seen)
    part.pooler_output = first(seen.pooler_output)
    if deep := getattr(seen, DEEP, None):
        setattr(part, DEEP, [first(layer) for layer in deep])
    return _with(inputs, seen), _with(asked, part)


def _with(inputs: Inputs, seen: Any) -> Inputs:
    return {SEEN: {"image": seen}, **{name: value for name, value in inputs.items() if name != "pixel_values"}}
