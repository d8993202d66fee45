"""The teacher inside the training loop, which stage 1 makes unnecessary: conditioned steps by transformers.

Shape legend: B images, T tokens, V vocabulary, H hidden size. Prompts are padded on the right.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sekd.models import ModelConfig, load_processor
from sekd.prompts import Prompter
from sekd.questions import Question


@dataclass(frozen=True)
class Step:
    """One step of a batch: option indices [B], logprobs [B, V] and the last layer's states before the norm [B, H]."""

    answers: list[int]
    logprobs_BV: Tensor
    hidden_BH: Tensor


@dataclass(frozen=True)
class Prompts:
    """Token ids, where they are no padding, and which of them are the image's; [B, T] each."""

    ids: Tensor
    mask: Tensor
    kinds: Tensor


class OnlineTeacher:
    """Asks level by level.

    Args:
        vlm: a Qwen2.5-VL of transformers.
        cached: keep the keys and values of what a step's prompts share with those of the step before, image included.
    """

    def __init__(self, vlm: Any, model: ModelConfig, *, cached: bool) -> None:
        self._vlm = vlm
        self._processor = load_processor(model)
        self._tokenizer = self._processor.tokenizer
        self._prompter = Prompter.named(model.wording)
        self.letter_ids = tuple(self._prompter.letter_ids(self._tokenizer, 4))
        self._image = self._tokenizer.convert_tokens_to_ids(self._processor.image_token)
        self._cached = cached

    @torch.no_grad()
    def ask(self, questions: Sequence[Sequence[Question]], images: dict[str, Tensor]) -> list[Step]:
        """All steps of a batch of images.

        Args:
            images: the image processor's output for all of them.
        """
        answers: list[list[int]] = [[] for _ in questions]
        steps: list[Step] = []
        cache, before = None, None
        for step in range(len(questions[0])):
            prompts = self._prompts(questions, step, answers, images["image_grid_thw"])
            keep = _shared(before, prompts) if cache is not None and before is not None else 0
            hidden_BH, cache = self._states(prompts, images, cache, keep)
            before = prompts
            steps.append(self._step(hidden_BH))
            for known, answer in zip(answers, steps[-1].answers, strict=True):
                known.append(answer)
        return steps

    def images(self, pictures: Sequence[Any]) -> dict[str, Tensor]:
        """The image processor's output."""
        return dict(self._processor.image_processor(images=list(pictures), return_tensors="pt"))

    def _step(self, hidden_BH: Tensor) -> Step:
        normed = self._vlm.get_decoder().norm(hidden_BH)
        logprobs_BV = self._vlm.get_output_embeddings()(normed).float().log_softmax(-1)
        return Step(logprobs_BV[:, self.letter_ids].argmax(-1).tolist(), logprobs_BV, hidden_BH)

    def _prompts(
        self, questions: Sequence[Sequence[Question]], step: int, answers: Sequence[Sequence[int]], grid: Tensor
    ) -> Prompts:
        self._tokenizer.padding_side = "right"
        image_tokens = (grid.prod(-1) // self._processor.image_processor.merge_size**2).tolist()
        texts = [
            self._prompter.render(self._processor, self._prompter.conditioned(asked, step, known)).replace(
                self._processor.image_token, " ".join([self._processor.image_token] * count)
            )
            for asked, known, count in zip(questions, answers, image_tokens, strict=True)
        ]
        encoded = self._tokenizer(texts, padding=True, return_tensors="pt")
        ids = encoded["input_ids"]
        return Prompts(ids, encoded["attention_mask"], (ids == self._image).int())

    def _states(self, prompts: Prompts, images: dict[str, Tensor], cache: Any, keep: int) -> tuple[Tensor, Any]:
        """The last layer's states before the norm at each prompt's last token, and the keys and values."""
        body = self._vlm.model
        positions, _ = body.get_rope_index(
            prompts.ids,
            mm_token_type_ids=prompts.kinds,
            image_grid_thw=images["image_grid_thw"],
            attention_mask=prompts.mask,
        )
        if keep:
            cache.crop(keep - cache.get_seq_length())
        seen: list[Tensor] = []
        hook = self._vlm.get_decoder().norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        output = body(
            input_ids=prompts.ids[:, keep:],
            attention_mask=prompts.mask,
            position_ids=positions[:, :, keep:],
            past_key_values=cache if keep else None,
            use_cache=self._cached,
            **({} if keep else images),
        )
        hook.remove()
        last = prompts.mask.sum(1) - 1 - keep
        return seen[0][torch.arange(len(last)), last], output.past_key_values if self._cached else None


def _shared(before: Prompts, now: Prompts) -> int:
    """How many leading tokens every prompt shares with the one before; at least one stays to be computed."""
    length = int(min(before.mask.sum(1).min(), now.mask.sum(1).min() - 1))
    same = (before.ids[:, :length] == now.ids[:, :length]).all(0)
    return int(same.int().cumprod(0).sum())
