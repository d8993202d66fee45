"""The baseline of the teacher's pass: transformers answers level by level on a batch of images.

Shape legend: B images, T tokens, V vocabulary, R layers, H hidden size. Prompts are padded on the right.
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
    """One level: option indices [B], logprobs [B, V] and the last layer's states before the norm [B, H]."""

    answers: list[int]
    logprobs_BV: Tensor
    hidden_BH: Tensor


class HfLoop:
    """Conditioned steps with a Qwen2.5-VL of transformers.

    Args:
        vlm: the model, on any device.
        cached: keep the keys and values of the tokens that a level's prompts share with those of the level above.
    """

    def __init__(self, vlm: Any, model: ModelConfig, *, cached: bool) -> None:
        self._vlm, self._cached = vlm, cached
        self._processor = load_processor(model)
        self._tokenizer = self._processor.tokenizer
        self._tokenizer.padding_side = "right"
        self._prompter = Prompter.named(model.wording)
        self._letters = self._prompter.letter_ids(self._tokenizer, 4)
        self._image = self._tokenizer.convert_tokens_to_ids(self._processor.image_token)

    @torch.no_grad()
    def ask(self, questions: Sequence[Sequence[Question]], images: dict[str, Tensor]) -> list[Step]:
        """All levels of a batch. ``images`` is the image processor's output."""
        answers: list[list[int]] = [[] for _ in questions]
        steps: list[Step] = []
        cache, before = None, None
        for level in range(len(questions[0])):
            tokens = self._tokens(questions, level, answers, images["image_grid_thw"])
            keep = _shared(before, tokens) if before is not None and cache is not None else 0
            hidden_BH, cache = self._states(tokens, images, cache, keep)
            normed_BH = self._vlm.get_decoder().norm(hidden_BH)
            logprobs_BV = self._vlm.get_output_embeddings()(normed_BH).float().log_softmax(-1)
            steps.append(Step(logprobs_BV[:, self._letters].argmax(-1).tolist(), logprobs_BV, hidden_BH))
            before = tokens
            for given, answer in zip(answers, steps[-1].answers, strict=True):
                given.append(answer)
        return steps

    def images(self, pictures: Sequence[Any]) -> dict[str, Tensor]:
        """The image processor's output."""
        return dict(self._processor.image_processor(images=pictures, return_tensors="pt").to(self._vlm.device))

    def _tokens(
        self, questions: Sequence[Sequence[Question]], level: int, answers: Sequence[Sequence[int]], grid: Tensor
    ) -> dict[str, Tensor]:
        """Ids and attention mask [B, T] each."""
        counts = (grid.prod(-1) // self._processor.image_processor.merge_size**2).tolist()
        texts = []
        for asked, given, count in zip(questions, answers, counts, strict=True):
            text = self._prompter.render(self._processor, self._prompter.conditioned(asked, level, given))
            image = self._processor.image_token
            texts.append(text.replace(image, " ".join([image] * count)))
        encoded = self._tokenizer(texts, padding=True, return_tensors="pt")
        return dict(encoded.to(self._vlm.device))

    def _states(
        self, tokens: dict[str, Tensor], images: dict[str, Tensor], cache: Any, keep: int
    ) -> tuple[Tensor, Any]:
        """The last layer's states before the norm at each prompt's last token, and the keys and values."""
        body, ids, mask = self._vlm.model, tokens["input_ids"], tokens["attention_mask"]
        kinds = (ids == self._image).int()
        grid = images["image_grid_thw"]
        positions, _ = body.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=grid, attention_mask=mask)
        if keep:
            cache.crop(keep - cache.get_seq_length())
        seen: list[Tensor] = []
        hook = self._vlm.get_decoder().norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        output = body(
            input_ids=ids[:, keep:],
            attention_mask=mask,
            position_ids=positions[:, :, keep:],
            past_key_values=cache if keep else None,
            use_cache=self._cached,
            **({} if keep else images),
        )
        hook.remove()
        last = mask.sum(1) - 1 - keep
        return seen[0][torch.arange(len(last)), last], output.past_key_values if self._cached else None


def _shared(before: dict[str, Tensor], now: dict[str, Tensor]) -> int:
    """Leading tokens that every prompt shares with the one before; at least one token is left to compute."""
    lengths = [int(tokens["attention_mask"].sum(1).min()) for tokens in (before, now)]
    length = min(lengths[0], lengths[1] - 1)
    same = (before["input_ids"][:, :length] == now["input_ids"][:, :length]).all(0)
    return int(same.int().cumprod(0).sum())
