"""Examines the base model during pretraining: the three paradigms on fresh images, without an engine.

A quick look, not the score: the same questions through vLLM are ``sekd.evaluation``'s.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sekd.embedded.forward import decode, logits, to_tensor
from sekd.embedded.kingdoms import LEVELS
from sekd.embedded.lessons import HEAD, LETTER, NEXT, NUMBER, REPLY, STOP, Asked, Scene, together

DEPTH = len(LEVELS)


@torch.inference_mode()
def examine(vlm: Any, images: Tensor, scene: Scene) -> dict[str, dict[str, float]]:
    """Paradigm -> percent of right paths, of right answers by level, and of replies that parse.

    Args:
        images: encoded images [B, N, H].
        scene: the same images as the world knows them.
    """
    asked = [scene.ask(level) for level in range(DEPTH)]
    given = {
        "independent": _independent(vlm, images, asked),
        "conditioned": _conditioned(vlm, images, asked),
        "joint": joint_answers(vlm, images, asked),
    }
    return {paradigm: _score(answers, scene.answer) for paradigm, answers in given.items()}


def _score(answers: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    right = answers == truth
    by_level = {level: 100 * float(right[:, index].mean()) for index, level in enumerate(LEVELS)}
    return {"hca": 100 * float(right.all(1).mean()), **by_level, "parsed": 100 * float((answers >= 0).mean())}


def _independent(vlm: Any, images: Tensor, asked: list[Asked]) -> np.ndarray:
    return np.stack([_letter(vlm, images, _tile(HEAD, images), question) for question in asked], 1)


def _conditioned(vlm: Any, images: Tensor, asked: list[Asked]) -> np.ndarray:
    context = _tile(HEAD, images)
    answers = []
    for question in asked:
        answers.append(_letter(vlm, images, context, question))
        said = Asked(question.level, question.options, answers[-1]).reply()
        parts = [context, question.tokens(), _tile(REPLY, images), said, _tile([*STOP, *NEXT], images)]
        context = np.concatenate(parts, 1)
    return np.stack(answers, 1)


def _letter(vlm: Any, images: Tensor, context: np.ndarray, asked: Asked) -> np.ndarray:
    """The likeliest of the letters [B] to one question after some context [B, T]."""
    tokens = np.concatenate([context, asked.tokens(), _tile(REPLY, images)], 1)
    return logits(vlm, decode(vlm, to_tensor(tokens), images)[:, -1])[:, LETTER].argmax(-1).numpy()


def joint_answers(vlm: Any, images: Tensor, asked: list[Asked]) -> np.ndarray:
    """Free greedy decoding of one reply [B, L]; -1 where a slot holds no letter after its number."""
    whole = together(asked)
    tokens = to_tensor(whole.tokens[:, : whole.scored[0]])
    for _ in range(3 * DEPTH):
        likeliest = logits(vlm, decode(vlm, tokens, images)[:, -1]).argmax(-1)
        tokens = torch.cat([tokens, likeliest[:, None]], 1)
    reply = tokens[:, whole.scored[0] :].numpy().reshape(len(images), DEPTH, 3)
    letters = np.argmax(reply[:, :, 1, None] == LETTER, -1)
    parsed = np.isin(reply[:, :, 1], LETTER) & (reply[:, :, 0] == NUMBER)
    return np.where(parsed, letters, -1)


def _tile(tokens: list[int], images: Tensor) -> np.ndarray:
    return np.tile(tokens, (len(images), 1))
