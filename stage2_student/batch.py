"""A batch: prompts with the teacher's answers as tensors, and where in them each letter stands.

Shape legend: B images, T tokens, N letters of all images (answer positions), M other answer tokens, K candidates,
R layers, D hidden size, A other requests. A *position* is the one whose logits predict a token: the position before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


class OnDevice:
    """A dataclass that goes to another device as one, with every tensor in it; Lightning calls ``to``."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The same, its tensors moved as ``Tensor.to`` does."""

        def move(item: Any) -> Any:
            if isinstance(item, dict):
                return {name: move(inner) for name, inner in item.items()}
            return item.to(*args, **kwargs) if isinstance(item, Tensor | OnDevice) else item

        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return replace(self, **move(values))  # type: ignore[type-var]


@dataclass(frozen=True)
class Positions(OnDevice):
    """Places in a batch: which row [N], which position in it [N], and the token that follows there [N]."""

    rows: Tensor
    places: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Candidates(OnDevice):
    """The teacher's likeliest tokens at every answer position, in that order, and the log of all others' mass."""

    ids_NK: Tensor
    logprobs_NK: Tensor
    tail_N: Tensor

    def __getitem__(self, positions: slice) -> "Candidates":
        return Candidates(self.ids_NK[positions], self.logprobs_NK[positions], self.tail_N[positions])

    @classmethod
    def concatenate(cls, parts: Sequence["Candidates"]) -> "Candidates":
        """Those of all parts, in order."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass(frozen=True)
class Requests(OnDevice):
    """Other requests about some of a batch's images, of which the reply's first token is held to the base's.

    ``replies_A`` is where each reply begins: the prompt's last position. ``shares_A`` is how much each counts, as much
    as a whole path; ``names`` are the images'.
    """

    inputs: dict[str, Tensor]
    replies_A: Tensor
    shares_A: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class Batch(OnDevice):
    """Prompts with the teacher's answers, ready for the model: joint ones, and single steps that are rehearsed.

    Attributes:
        inputs: what the model's forward takes.
        answer_positions: where the letters are predicted, [N]; images in order, steps in order.
        format_positions: where the other answer tokens and the end of the turn are predicted, [M].
        answers_N: the teacher's option index.
        levels_N: index in ``level_names``.
        shares_N, shares_M: how much a position counts, so that a weighted sum over all ranks is the mean over the
            examples of the step (times the number of ranks, which gradient averaging divides by).
        candidates, hidden_NRD: as stored; None where no loss asks for them.
        parent_prob_N: the teacher's probability of its answer to the step above, by the candidates; 1 for the first.
        images: how many images count; 0 where the one that is here fills a place.
        names: of the images, all that are here.
        requests: what else is asked about them; None where nothing is.
    """

    inputs: dict[str, Tensor]
    answer_positions: Positions
    format_positions: Positions
    answers_N: Tensor
    levels_N: Tensor
    level_names: tuple[str, ...]
    shares_N: Tensor
    shares_M: Tensor
    candidates: Candidates | None
    parent_prob_N: Tensor | None
    hidden_NRD: Tensor | None
    images: int
    names: tuple[str, ...]
    requests: Requests | None = None
