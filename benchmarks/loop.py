"""The obvious way to make the same targets: transformers, level by level, batches of whole prompts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sekd.datasets import Dataset, Example
from sekd.inference.schedule import read_image
from sekd.models import ModelConfig, load_processor, load_vlm
from sekd.prompts import Prompter


class Loop:
    """Conditioned steps over images in batches.

    Args:
        model: whose weights to ask.
        layers: hidden states kept at the answer position.
        topk: most likely tokens kept there.
        batch: prompts in one forward pass, left-padded.
    """

    def __init__(self, model: ModelConfig, *, layers: Sequence[int], topk: int, batch: int) -> None:
        self._prompter = Prompter.named(model.wording)
        self._processor = load_processor(model)
        self._processor.tokenizer.padding_side = "left"
        self._vlm = load_vlm(model, dtype=torch.float32)
        self._letters = self._prompter.letter_ids(self._processor.tokenizer, 4)
        self._layers, self._topk, self._batch = list(layers), topk, batch

    @torch.inference_mode()
    def run(self, dataset: Dataset, examples: Sequence[Example]) -> list[list[dict[str, Any]]]:
        """The targets of each example's steps."""
        answers: list[list[int]] = [[] for _ in examples]
        targets: list[list[dict[str, Any]]] = [[] for _ in examples]
        questions = [dataset.questions(example) for example in examples]
        for step in range(max(map(len, questions))):
            asked = [place for place, path in enumerate(questions) if step < len(path)]
            for start in range(0, len(asked), self._batch):
                places = asked[start : start + self._batch]
                images = [read_image(dataset.image_path(examples[place])) for place in places]
                texts = [
                    self._prompter.render(
                        self._processor, self._prompter.conditioned(questions[place], step, answers[place])
                    )
                    for place in places
                ]
                for place, target in zip(places, self._forward(texts, images), strict=True):
                    answers[place].append(target["answer"])
                    targets[place].append(target)
        return targets

    def _forward(self, texts: list[str], images: list[Any]) -> list[dict[str, Any]]:
        inputs = self._processor(text=texts, images=images, return_tensors="pt", padding=True)
        output = self._vlm(**inputs, logits_to_keep=1, output_hidden_states=True)
        logprobs_BV = torch.log_softmax(output.logits[:, -1].float(), -1)
        top = logprobs_BV.topk(self._topk)
        hidden_BLH = torch.stack([output.hidden_states[layer][:, -1] for layer in self._layers], 1)
        choice_B = logprobs_BV[:, self._letters].argmax(-1)
        return [
            {
                "answer": int(choice_B[row]),
                "topk_ids": top.indices[row].numpy(),
                "topk_logprobs": top.values[row].numpy(),
                "hidden": np.array(hidden_BLH[row]),
            }
            for row in range(len(texts))
        ]
