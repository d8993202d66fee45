"""Examines the base model during pretraining: the three paradigms on fresh images, without an engine.

A quick look, not the score: the same questions through vLLM are ``sekd.evaluation``'s.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sekd.embedded import lessons
from sekd.embedded.forward import decode, logits, to_tensor
from sekd.embedded.kingdoms import LEVELS
from sekd.embedded.lessons import HEAD, LETTER, NUMBER, REPLY, Asked, Scene

DEPTH = len(LEVELS)


@torch.inference_mode()
def examine(vlm: Any, images: Tensor, scene: Scene, seed: int = 0) -> dict[str, dict[str, float]]:
    """Paradigm -> percent of right paths, of right answers by level, and of replies that parse.

    Args:
        images: encoded images [B, N, H].
        scene: the same images as the world knows them.
    """
    rng = np.random.default_rng(seed)
    asked = [lessons.ask_level(scene, np.full(len(scene), level), rng) for level in range(DEPTH)]
    truth = np.stack([question.answer for question in asked], 1)
    given = {
        "independent": _independent(vlm, images, asked),
        "conditioned": _conditioned(vlm, images, asked),
        "joint": _joint(vlm, images, asked),
    }
    return {paradigm: _score(answers, truth) for paradigm, answers in given.items()}


def _score(answers: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    right = answers == truth
    by_level = {level: 100 * float(right[:, index].mean()) for index, level in enumerate(LEVELS)}
    return {"hca": 100 * float(right.all(1).mean()), **by_level, "parsed": 100 * float((answers >= 0).mean())}


def _independent(vlm: Any, images: Tensor, asked: list[Asked]) -> np.ndarray:
    none = np.zeros((len(images), 0), dtype=int)
    return np.stack([_letter(vlm, images, none, asked[level], level) for level in range(DEPTH)], 1)


def _conditioned(vlm: Any, images: Tensor, asked: list[Asked]) -> np.ndarray:
    facts = np.zeros((len(images), 0), dtype=int)
    answers = []
    for level in range(DEPTH):
        answers.append(_letter(vlm, images, facts, asked[level], level))
        name = asked[level].options[np.arange(len(images)), answers[-1]]
        fact = np.stack([np.full(len(images), lessons.LEVEL[level]), name], 1)
        opening = [np.full((len(images), 1), lessons.ID["known"])] if level == 0 else []
        facts = np.concatenate([*opening, facts, fact], 1)
    return np.stack(answers, 1)


def _letter(vlm: Any, images: Tensor, facts: np.ndarray, asked: Asked, level: int) -> np.ndarray:
    """The likeliest of the letters [B] to one question, its reply primed with the question's number."""
    count = len(images)
    asking = asked.tokens(np.full(count, level))
    parts = [np.tile(HEAD, (count, 1)), facts, asking, np.tile([*REPLY, NUMBER[level]], (count, 1))]
    hidden = decode(vlm, to_tensor(np.concatenate(parts, 1)), images)[:, -1]
    return logits(vlm, hidden)[:, LETTER].argmax(-1).numpy()


def _joint(vlm: Any, images: Tensor, asked: list[Asked]) -> np.ndarray:
    """Free greedy decoding of one reply; -1 where a slot holds no letter after its number."""
    count = len(images)
    questions = [question.tokens(np.full(count, level)) for level, question in enumerate(asked)]
    tokens = to_tensor(np.concatenate([np.tile(HEAD, (count, 1)), *questions, np.tile(REPLY, (count, 1))], 1))
    start = tokens.shape[1]
    for _ in range(3 * DEPTH):
        likeliest = logits(vlm, decode(vlm, tokens, images)[:, -1]).argmax(-1)
        tokens = torch.cat([tokens, likeliest[:, None]], 1)
    reply = tokens[:, start:].numpy().reshape(count, DEPTH, 3)
    letters = np.argmax(reply[:, :, 1, None] == LETTER, -1)
    parsed = np.isin(reply[:, :, 1], LETTER) & (reply[:, :, 0] == NUMBER)
    return np.where(parsed, letters, -1)
