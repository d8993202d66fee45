"""Weights the losses: by loss, by level, by the probability of the parent's answer. A loss of weight 0 is not computed.

Shape legend: N answer positions, M other answer tokens, V vocabulary, K candidates, R layers, D hidden size,
A other requests.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stage2_student import losses
from stage2_student.batch import Batch
from stage2_student.config import LEAF, LossConfig
from stage2_student.model import States

FORMAT_CHUNK = 256  # rows of full-vocabulary logits at a time for the format tokens
Layer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LossResult:
    """The loss to minimise, and each loss for logging: unweighted, one value a position."""

    total: Tensor
    terms_N: dict[str, Tensor]
    format_M: Tensor | None
    requests_A: Tensor | None
    logits_NV: Tensor


class Objective:
    """The paper's three losses at the answer positions, the format loss, and that of other requests.

    Attributes:
        stored_layers: the layers that ``Batch.hidden_NRD`` must hold, in this order.
        student_layers: the layers that ``States.layers`` must hold.
    """

    def __init__(self, config: LossConfig, *, n_layers: int) -> None:
        self.config = config
        self._last = n_layers
        self._compared = resolve_layers(config, n_layers)
        self.stored_layers = wanted_layers(config, n_layers)
        self.student_layers = tuple(layer for layer in self._compared if not self._normed(layer))

    def __call__(self, states: States, batch: Batch, *, head: Layer, norm: Layer) -> LossResult:
        """The weighted loss of one batch. ``head`` and ``norm`` are the model's own, frozen."""
        config = self.config
        needs_logits = config.hard.weight > 0 or (config.soft.weight > 0 and config.soft.source == "topk")
        with torch.set_grad_enabled(torch.is_grad_enabled() and needs_logits):
            logits_NV = head(states.last_ND)
        terms: dict[str, Tensor] = {}
        if config.hard.weight:
            terms["hard"] = losses.hard(logits_NV, batch.answer_positions.tokens)
        if config.soft.weight:
            terms["soft"] = self._soft(states, batch, logits_NV, head=head, norm=norm)
        if config.hidden.weight:
            terms["hidden"] = self._hidden(states, batch, norm)
        weights_N = self._weights(batch)
        total = sum(getattr(config, name).weight * (weights_N * values_N).sum() for name, values_N in terms.items())
        format_M = requests_A = None
        if states.format_MD is not None:
            format_M = losses.chunked_hard(states.format_MD, batch.format_positions.tokens, head, chunk=FORMAT_CHUNK)
            total = total + config.format.weight * (batch.shares_M * format_M).sum()
        if states.replies is not None and batch.requests is not None:
            requests_A = losses.exact(*states.replies, head, temperature=1.0, chunk=config.soft.chunk)
            total = total + (batch.requests.shares_A * requests_A).sum()
        assert isinstance(total, Tensor)
        return LossResult(total, terms, format_M, requests_A, logits_NV.detach())

    def _soft(self, states: States, batch: Batch, logits_NV: Tensor, *, head: Layer, norm: Layer) -> Tensor:
        soft, candidates = self.config.soft, batch.candidates
        how: dict[str, Any] = {"temperature": soft.temperature, "divergence": soft.divergence}
        if soft.source == "exact":
            teacher_ND = self._teacher(batch, self._last, norm)
            return losses.exact(states.last_ND, teacher_ND, head, chunk=soft.chunk, **how)
        assert candidates is not None
        k = soft.k or candidates.ids_NK.shape[1]
        kept = losses.keep_candidates(candidates.logprobs_NK, candidates.tail_N, k)
        return losses.soft(logits_NV, candidates.ids_NK[:, :k], *kept, **how)

    def _hidden(self, states: States, batch: Batch, norm: Layer) -> Tensor:
        """Mean over the configured layers, [N]."""
        student = [states.last_ND if self._normed(layer) else states.layers[layer] for layer in self._compared]
        teacher = [self._teacher(batch, layer, norm if self._normed(layer) else None) for layer in self._compared]
        student_NRD, teacher_NRD = torch.stack(student, dim=1), torch.stack(teacher, dim=1)
        return losses.hidden(student_NRD, teacher_NRD, distance=self.config.hidden.distance).mean(dim=1)

    def _normed(self, layer: int) -> bool:
        """Whether a layer is compared as the head reads it."""
        return layer == self._last and self.config.hidden.after_norm

    @torch.no_grad()
    def _teacher(self, batch: Batch, layer: int, norm: Layer | None) -> Tensor:
        """The teacher's states of one layer, [N, D], after the final norm where given: the student shares it.

        Converted to float32 on the device, to transfer half as much.
        """
        assert batch.hidden_NRD is not None
        stored_ND = batch.hidden_NRD[:, self.stored_layers.index(layer)].float()
        return norm(stored_ND) if norm else stored_ND

    def _weights(self, batch: Batch) -> Tensor:
        levels = dict(self.config.levels)
        leaf = levels.pop(LEAF, 1.0)
        by_level = torch.tensor([levels.get(name, 1.0) for name in batch.level_names])
        weights_N = batch.shares_N * by_level.to(batch.shares_N)[batch.levels_N]
        weights_N = torch.where(batch.leaf_N, leaf * weights_N, weights_N)
        if self.config.confidence:
            assert batch.parent_prob_N is not None
            weights_N = weights_N * batch.parent_prob_N**self.config.confidence
        return weights_N


def resolve_layers(config: LossConfig, n_layers: int) -> tuple[int, ...]:
    """The layers that ``loss.hidden`` compares, counted from the front."""
    if not config.hidden.weight:
        return ()
    return tuple(layer if layer >= 0 else n_layers + 1 + layer for layer in config.hidden.layers)


def wanted_layers(config: LossConfig, n_layers: int) -> tuple[int, ...]:
    """The layers that must be read from the store: those compared, and the last one for the exact distribution."""
    exact = (n_layers,) if config.soft.weight and config.soft.source == "exact" else ()
    return tuple(sorted({*resolve_layers(config, n_layers), *exact}))


def wants_candidates(config: LossConfig) -> bool:
    """Whether the stored top-k must be read: for the loss itself, or for the teacher's confidence."""
    return bool((config.soft.weight and config.soft.source == "topk") or config.confidence)
