"""Probes the base model during pretraining: the three prompting strategies on fresh images, without an engine.

The published scores come from ``sekd.evaluation``, which asks the same questions through vLLM.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tools.pretrain_base.forward import Sequences, decode, logits, to_tensor
from tools.pretrain_base.tasks import LabelBatch, Questions, Tasks, tile


@torch.inference_mode()
def probe(vlm: Any, images: Tensor, tasks: Tasks, examples: LabelBatch) -> dict[str, dict[str, float]]:
    """Strategy -> percent of correct paths (``hca``), of correct answers by level, and of answers that parse.

    Args:
        images: encoded images [B, N, H].
        examples: their labels.
    """
    depth = max(examples.depth)
    exists = np.arange(depth) < examples.depth[:, None]
    answers = {strategy: np.full((len(examples), depth), -1) for strategy in STRATEGIES}
    for rows in examples.by_depth():
        asked = examples[rows]
        for strategy, answer in STRATEGIES.items():
            answers[strategy][rows[:, None], asked.levels] = answer(vlm, images[rows], tasks, asked)
    return {
        strategy: _score(given, examples.answer[:, :depth], exists, tasks.world.levels)
        for strategy, given in answers.items()
    }


def _score(answers: np.ndarray, truth: np.ndarray, exists: np.ndarray, levels: Sequence[str]) -> dict[str, float]:
    correct = answers == truth
    by_level = zip(levels, correct.T, exists.T, strict=False)
    return {
        "hca": 100 * float((correct | ~exists).all(1).mean()),
        **{level: 100 * float(right[there].mean()) for level, right, there in by_level},
        "parsed": 100 * float((answers[exists] >= 0).mean()),
    }


def _independent(vlm: Any, images: Tensor, tasks: Tasks, examples: LabelBatch) -> np.ndarray:
    head = tile(tasks.head, images)
    return np.stack([_letter(vlm, images, tasks, head, examples.questions(level)) for level in examples.levels], 1)


def _conditioned(vlm: Any, images: Tensor, tasks: Tasks, examples: LabelBatch) -> np.ndarray:
    context = tile(tasks.head, images)
    answers = []
    for level in examples.levels:
        asked = examples.questions(level)
        answers.append(_letter(vlm, images, tasks, context, asked))
        answer = tasks.answer(Questions(asked.level, asked.options, answers[-1]))
        parts = [context, tasks.ask(asked), tile(tasks.reply, images), answer]
        context = np.concatenate([*parts, tile([*tasks.stop, *tasks.next], images)], 1)
    return np.stack(answers, 1)


def _letter(vlm: Any, images: Tensor, tasks: Tasks, context: np.ndarray, asked: Questions) -> np.ndarray:
    """The likeliest letter [B] for one question after a context [B, T]."""
    tokens = np.concatenate([context, tasks.ask(asked), tile(tasks.reply, images)], 1)
    return _next(vlm, images, to_tensor(tokens))[:, tasks.letter].argmax(-1).numpy()


def _joint(vlm: Any, images: Tensor, tasks: Tasks, examples: LabelBatch) -> np.ndarray:
    """Greedy decoding of one reply [B, L]; -1 where no letter follows the question's number."""
    batch, depth = tasks.joint(examples), len(examples.levels)
    prompt = batch.targets[0]
    tokens = to_tensor(batch.tokens[:, :prompt])
    for _ in range(3 * depth):
        tokens = torch.cat([tokens, _next(vlm, images, tokens).argmax(-1, keepdim=True)], 1)
    reply = tokens[:, prompt:].numpy().reshape(len(images), depth, 3)
    letters = np.argmax(reply[:, :, 1, None] == tasks.letter, -1)
    parsed = np.isin(reply[:, :, 1], tasks.letter) & (reply[:, :, 0] == tasks.number[:depth])
    return np.where(parsed, letters, -1)


def _next(vlm: Any, images: Tensor, tokens: Tensor) -> Tensor:
    """Logits of the token after each sequence [B, vocabulary]."""
    (hidden,) = decode(vlm, [Sequences(tokens, images, torch.tensor([tokens.shape[1] - 1]))])
    return logits(vlm, hidden[:, 0])


STRATEGIES = {"independent": _independent, "conditioned": _conditioned, "joint": _joint}
