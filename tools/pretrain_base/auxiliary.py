"""Auxiliary losses at the position of an answer's letter, for models that write the letter before the name.

To write the letter, a model must already know the answer's name and find the option that has it. Two losses ask for
these two steps: the answer's name is predicted from the hidden state before the last layer, and one head of the last
layer attends to the answer's option. Without them a small model finds neither for hundreds of steps.

Shape legend: B sequences, C letters of a sequence, T tokens.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tools.pretrain_base.forward import BeforeLast, attention_scores, logits
from tools.pretrain_base.initialise import MATCHING_HEADS

HEAD = MATCHING_HEADS[0]


def auxiliary_losses(vlm: Any, state: BeforeLast, letters: Sequence[np.ndarray]) -> Tensor:
    """The sum over all letters of the cross-entropy of the name and that of the attention.

    Args:
        vlm: the model.
        state: what its last layer receives.
        letters: for each batch which of its positions predict a letter whose name follows [C].
    """
    total = torch.zeros(())
    known = state.split(vlm.model.language_model.norm(state.x[state.rows]))
    for batch, hidden, scores, places in zip(
        state.batches, known, attention_scores(vlm, state, HEAD), letters, strict=True
    ):
        at = batch.positions[places] + 1
        names = logits(vlm, hidden[:, places])
        total = total + _cross_entropy(names, batch.tokens[:, at + 1])
        total = total + _cross_entropy(scores[:, places], answer_options(batch.tokens, at))
    return total


def answer_options(tokens: Tensor, letters: Tensor) -> Tensor:
    """Where the names of the answers stand among the options [B, C].

    A letter and its name stand together twice: in the options, and later in the reply.

    Args:
        tokens: the sequences [B, T].
        letters: where the letters of the replies stand [C].
    """
    same = (tokens[:, None, :-1] == tokens[:, letters, None]) & (tokens[:, None, 1:] == tokens[:, letters + 1, None])
    return same.int().argmax(-1) + 1


def _cross_entropy(scores: Tensor, truth: Tensor) -> Tensor:
    return functional.cross_entropy(scores.flatten(0, 1), truth.flatten(), reduction="sum")
