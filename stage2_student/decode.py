"""Greedy joint answers of the student as it is being trained, scored where the truth is known.

A sign on the way, from transformers' own generation; the scores to report come from ``sekd.evaluation``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sekd.answers import parse_joint
from sekd.datasets import Dataset, Example
from sekd.metrics import parse_failures, score
from sekd.questions import Question
from stage2_student.batch import OnDevice
from stage2_student.encode import Encoder

SPARE_TOKENS = 8  # beyond the longest answer that could be right


@dataclass(frozen=True)
class PromptBatch(OnDevice):
    """Joint prompts of several images, padded on the left, their questions, and the token that ends an answer."""

    inputs: dict[str, torch.Tensor]
    questions: list[tuple[Question, ...]]
    max_new_tokens: int
    end_id: int


class Prompts:
    """The first ``images`` images of a held-out split with known truth, in batches."""

    def __init__(self, dataset: Dataset, encoder: Encoder, *, images: int, batch_size: int) -> None:
        self._dataset = dataset
        self._encoder = encoder
        self._batch_size = batch_size
        self._examples = spread(dataset.examples, images)

    def __len__(self) -> int:
        return -(-len(self._examples) // self._batch_size)

    def __iter__(self) -> Iterator[PromptBatch]:
        for start in range(0, len(self._examples), self._batch_size):
            examples = self._examples[start : start + self._batch_size]
            questions = [self._dataset.questions(example) for example in examples]
            longest = max(self._encoder.answer_length(asked) for asked in questions)
            inputs = self._encoder.prompts([self._dataset.image_path(example) for example in examples], questions)
            yield PromptBatch(inputs, questions, longest + SPARE_TOKENS, self._encoder.end_id)


def spread(examples: Sequence[Example], count: int) -> list[Example]:
    """``count`` examples, evenly spread over the list: datasets list class after class."""
    count = min(count, len(examples))
    return [examples[index * len(examples) // count] for index in range(count)]


def decode_plainly(vlm: Any) -> None:
    """From now on a model of transformers decodes greedily, as vLLM is asked to, and ends a reply where it did.

    What a released model is recommended to be sampled with, such as a repetition penalty, would change greedy replies
    too, and transformers takes it from the model wherever a call does not say otherwise.
    """
    from transformers import GenerationConfig

    vlm.generation_config = GenerationConfig(eos_token_id=vlm.generation_config.eos_token_id, do_sample=False)


@torch.no_grad()
def answer(vlm: Any, tokenizer: Any, asked: PromptBatch, *, in_step: bool = False) -> list[str]:
    """The model's greedy replies. The model must have been made to ``decode_plainly``.

    Args:
        in_step: go on until the replies of all processes have ended, as each needs the others' weights.
    """
    own = vlm.generation_config.eos_token_id
    ends = own if isinstance(own, list) else [] if own is None else [own]
    tokens = vlm.generate(
        **asked.inputs,
        max_new_tokens=asked.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=[*ends, asked.end_id],
        synced_gpus=in_step,
    )
    return tokenizer.batch_decode(tokens[:, asked.inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def scored(replies: Sequence[str], questions: Sequence[tuple[Question, ...]]) -> dict[str, float]:
    """The benchmark's metrics of the replies, in percent, over questions whose truth is known, with parse failures."""
    truth = [[question.truth_name for question in asked] for asked in questions]
    predicted = []
    for reply, asked in zip(replies, questions, strict=True):
        choices = zip(parse_joint(reply, asked), asked, strict=True)
        predicted.append([None if choice is None else question.options[choice] for choice, question in choices])
    scores = score(truth, predicted)
    kept = {name: scores[name] for name in ("hca", "leaf", "por", "s_por", "tor")}
    return {**kept, "parse_failures": parse_failures(predicted), "n": len(predicted)}
