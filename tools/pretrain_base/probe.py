"""Probes the base model during pretraining: the three prompting strategies on fresh images, without an engine.

The published scores come from ``sekd.evaluation``, which asks the same questions through vLLM.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sekd.embedded.kingdoms import LEVELS
from tools.pretrain_base.forward import decode, logits, to_tensor
from tools.pretrain_base.tasks import HEAD, LETTER, NEXT, NUMBER, REPLY, STOP, Examples, Questions, joint

DEPTH = len(LEVELS)


@torch.inference_mode()
def probe(vlm: Any, images: Tensor, examples: Examples) -> dict[str, dict[str, float]]:
    """Strategy -> percent of correct paths (``hca``), of correct answers by level, and of answers that parse.

    Args:
        images: encoded images [B, N, H].
        examples: their labels.
    """
    questions = [examples.questions(level) for level in range(DEPTH)]
    answers = {
        "independent": np.stack([_letter(vlm, images, _tile(HEAD, images), asked) for asked in questions], 1),
        "conditioned": _conditioned(vlm, images, questions),
        "joint": _joint(vlm, images, examples),
    }
    return {strategy: _score(given, examples.answer) for strategy, given in answers.items()}


def _score(answers: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    correct = answers == truth
    by_level = {level: 100 * float(correct[:, index].mean()) for index, level in enumerate(LEVELS)}
    return {"hca": 100 * float(correct.all(1).mean()), **by_level, "parsed": 100 * float((answers >= 0).mean())}


def _conditioned(vlm: Any, images: Tensor, questions: list[Questions]) -> np.ndarray:
    context = _tile(HEAD, images)
    answers = []
    for asked in questions:
        answers.append(_letter(vlm, images, context, asked))
        reply = Questions(asked.level, asked.options, answers[-1]).reply()
        parts = [context, asked.prompt(), _tile(REPLY, images), reply, _tile([*STOP, *NEXT], images)]
        context = np.concatenate(parts, 1)
    return np.stack(answers, 1)


def _letter(vlm: Any, images: Tensor, context: np.ndarray, asked: Questions) -> np.ndarray:
    """The likeliest letter [B] for one question after a context [B, T]."""
    tokens = np.concatenate([context, asked.prompt(), _tile(REPLY, images)], 1)
    return logits(vlm, decode(vlm, to_tensor(tokens), images)[:, -1])[:, LETTER].argmax(-1).numpy()


def _joint(vlm: Any, images: Tensor, examples: Examples) -> np.ndarray:
    """Greedy decoding of one reply [B, L]; -1 where no letter follows the question's number."""
    batch = joint(examples)
    prompt = batch.targets[0]
    tokens = to_tensor(batch.tokens[:, :prompt])
    for _ in range(3 * DEPTH):
        likeliest = logits(vlm, decode(vlm, tokens, images)[:, -1]).argmax(-1)
        tokens = torch.cat([tokens, likeliest[:, None]], 1)
    reply = tokens[:, prompt:].numpy().reshape(len(images), DEPTH, 3)
    letters = np.argmax(reply[:, :, 1, None] == LETTER, -1)
    parsed = np.isin(reply[:, :, 1], LETTER) & (reply[:, :, 0] == NUMBER)
    return np.where(parsed, letters, -1)


def _tile(tokens: list[int], images: Tensor) -> np.ndarray:
    return np.tile(tokens, (len(images), 1))
