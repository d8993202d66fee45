"""The student: a frozen vision-language model with LoRA on its language model, read only at answer positions.

Shape legend: B images, T tokens, N answer positions, M other answer tokens, R layers, D hidden size, V vocabulary,
A other requests.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import DeviceMesh

from sekd.errors import SekdError
from stage2_student.batch import Batch, Requests
from stage2_student.config import LoraSettings
from stage2_student.decode import PromptBatch, answer, decode_greedily
from stage2_student.vision import VisionCache, takes_vision


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

        if gradient_checkpointing:
            vlm.gradient_checkpointing_enable({"use_reentrant": False})
        decode_greedily(vlm)
        pattern = target_pattern(vlm, lora.targets)
        settings = LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=pattern, bias="none"
        )
        self.vlm = get_peft_model(vlm, settings)
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
        # The tower computes an image once for its path and all requests about it.
        vision = VisionCache() if batch.requests is not None and takes_vision(self.base.model) else None
        joint = vision.inputs(self.base.model, batch.inputs, batch.names) if vision else batch.inputs
        replies = None if batch.requests is None else self._replies(batch.requests, vision)
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

    def _replies(self, requests: Requests, vision: VisionCache | None) -> tuple[Tensor, Tensor]:
        """The student's and its base's last states where each reply begins, [A, D] each."""
        inputs = vision.inputs(self.base.model, requests.inputs, requests.names) if vision else requests.inputs
        rows_A = torch.arange(len(requests.replies_A), device=requests.replies_A.device)
        with torch.no_grad(), self.vlm.disable_adapter():
            base_AD = self._last(inputs)[rows_A, requests.replies_A]
        return self._last(inputs)[rows_A, requests.replies_A], base_AD

    def _last(self, inputs: dict[str, Any]) -> Tensor:
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
