"""A batch: prompts with the teacher's answers as tensors, and the positions of the letters.

Shape legend: B images, T tokens, N letters of all images (answer positions), M other answer tokens, K candidates,
R layers, D hidden size, A other requests. A *position* is the one whose logits predict a token: the position before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


class OnDevice:
    """A dataclass whose tensors move to another device together; Lightning calls ``to``."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """A copy with its tensors moved by ``Tensor.to``."""

        def move(item: Any) -> Any:
            if isinstance(item, dict):
                return {name: move(inner) for name, inner in item.items()}
            return item.to(*args, **kwargs) if isinstance(item, Tensor | OnDevice) else item

        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return replace(self, **move(values))  # type: ignore[type-var]


@dataclass(frozen=True)
class Positions(OnDevice):
    """Positions in a batch: row [N], position in it [N], and the token that follows [N]."""

    rows: Tensor
    places: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Candidates(OnDevice):
    """The teacher's likeliest tokens at every answer position, in that order, and the log of the other tokens' mass."""

    ids_NK: Tensor
    logprobs_NK: Tensor
    tail_N: Tensor

    def __getitem__(self, positions: slice) -> "Candidates":
        return Candidates(self.ids_NK[positions], self.logprobs_NK[positions], self.tail_N[positions])

    @classmethod
    def concatenate(cls, parts: Sequence["Candidates"]) -> "Candidates":
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass(frozen=True)
class Requests(OnDevice):
    """Other requests about a batch's images; the reply's first token is trained to stay the base's.

    They are about the batch's first images, one each. ``replies_A`` is the prompt's last position, after which the
    reply begins. ``shares_A`` is the weight of each, that of ``rehearsal.weight`` whole paths.
    """

    inputs: dict[str, Tensor]
    replies_A: Tensor
    shares_A: Tensor


@dataclass(frozen=True)
class Batch(OnDevice):
    """Prompts with the teacher's answers, ready for the model: joint paths, and rehearsed single steps.

    Attributes:
        inputs: the model's inputs.
        answer_positions: where the letters are predicted, [N]; images in order, steps in order.
        format_positions: where the other answer tokens and the end of the turn are predicted, [M].
        answers_N: the teacher's option index.
        levels_N: index in ``level_names``.
        leaf_N: whether it is the last level of its path.
        shares_N, shares_M: the weight of a position, so that a weighted sum over all ranks is the mean over the step's
            examples (times the number of ranks, by which gradient averaging divides).
        candidates, hidden_NRD: as stored; None where no loss needs them.
        parent_prob_N: the teacher's probability of its answer to the step above, from the candidates; 1 for the first,
            and for a single question.
        images: the number of images with weight; 0 if the batch's image only fills a place.
        names: of all images in the batch.
        requests: other requests about them, if any.
    """

    inputs: dict[str, Tensor]
    answer_positions: Positions
    format_positions: Positions
    answers_N: Tensor
    levels_N: Tensor
    level_names: tuple[str, ...]
    leaf_N: Tensor
    shares_N: Tensor
    shares_M: Tensor
    candidates: Candidates | None
    parent_prob_N: Tensor | None
    hidden_NRD: Tensor | None
    images: int
    names: tuple[str, ...]
    requests: Requests | None = None
