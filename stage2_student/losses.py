"""The losses between student and teacher at the answer positions: pure functions of tensors.

Shape legend: N answer positions, V vocabulary, K stored candidates, C = K + 1 buckets (the last is the tail),
R layers, D hidden size. Every function returns one loss a position (and layer), not weighted and not reduced.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

DIVERGENCES = ("forward", "reverse", "js")
DISTANCES = ("cosine", "mse")

# Stored logprobs are float32: a smaller tail cannot be distinguished from rounding of the candidates' sum.
TAIL_FLOOR = math.log(torch.finfo(torch.float32).eps)


def hard(logits_NV: Tensor, answer_ids_N: Tensor) -> Tensor:
    """Cross-entropy on the teacher's own answer, ``-log q(answer)`` in nats; [N]. The paper's L_hard."""
    return F.cross_entropy(_full(logits_NV), answer_ids_N, reduction="none")


def soft(
    logits_NV: Tensor,
    topk_ids_NK: Tensor,
    topk_logprobs_NK: Tensor,
    tail_logprob_N: Tensor,
    *,
    temperature: float,
    divergence: str = "forward",
) -> Tensor:
    """Divergence from the teacher's stored candidates, in nats times T²; [N]. The paper's L_soft.

    Both distributions are first reduced to the K candidates and one tail bucket that holds all other mass, then both
    are tempered, p^(1/T) renormalised, and compared: zero exactly where the student agrees on every bucket. Where K = V
    there is no tail and this is Hinton's distillation loss (arXiv 1503.02531) over the vocabulary. At K < V it is at
    most the dense loss at T = 1, because merging outcomes can only reduce the divergence.
    """
    logprobs_NV = F.log_softmax(_full(logits_NV), dim=-1)
    student_NC, teacher_NC = logprobs_NV.gather(-1, topk_ids_NK), topk_logprobs_NK
    if topk_ids_NK.shape[-1] < logits_NV.shape[-1]:
        student_tail_N = logprobs_NV.scatter(-1, topk_ids_NK, -math.inf).logsumexp(-1)
        student_NC = torch.cat([student_NC, student_tail_N.unsqueeze(-1)], dim=-1)
        teacher_NC = torch.cat([teacher_NC, tail_logprob_N.clamp_min(TAIL_FLOOR).unsqueeze(-1)], dim=-1)
    return _tempered(student_NC, teacher_NC, temperature, divergence)


def keep_candidates(topk_logprobs_NK: Tensor, tail_logprob_N: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first ``k`` candidates' logprobs, with the mass of the dropped ones moved to the tail."""
    if k == topk_logprobs_NK.shape[-1]:
        return topk_logprobs_NK, tail_logprob_N
    dropped_N = topk_logprobs_NK[:, k:].logsumexp(-1)
    return topk_logprobs_NK[:, :k], torch.logaddexp(tail_logprob_N, dropped_N)


def exact(
    student_ND: Tensor,
    teacher_ND: Tensor,
    head: Callable[[Tensor], Tensor],
    *,
    temperature: float,
    divergence: str = "forward",
    chunk: int = 64,
) -> Tensor:
    """Divergence over the full vocabulary from the teacher's last hidden state, in nats times T²; [N].

    Both states are taken after the final norm; ``head`` is frozen and shared, so it gives back the teacher's own
    distribution. The memory is that of ``chunk`` rows of logits, whatever N is.
    """

    def divergence_of(student_CD: Tensor, teacher_CD: Tensor) -> Tensor:
        with torch.no_grad():
            teacher_CV = _full(head(teacher_CD))
        return _tempered(_full(head(student_CD)), teacher_CV, temperature, divergence)

    return _in_chunks(divergence_of, student_ND, teacher_ND, chunk=chunk)


def chunked_hard(states_ND: Tensor, tokens_N: Tensor, head: Callable[[Tensor], Tensor], *, chunk: int = 64) -> Tensor:
    """Cross-entropy on ``tokens_N`` from states after the final norm, in nats; [N]. Memory as in ``exact``."""
    return _in_chunks(lambda states, tokens: hard(head(states), tokens), states_ND, tokens_N, chunk=chunk)


def hidden(student_NRD: Tensor, teacher_NRD: Tensor, *, distance: str) -> Tensor:
    """Distance of decoder states at the answer position, by layer; [N, R]. The paper's L_feat.

    ``cosine``: 1 - cos(s, t), in [0, 2]. ``mse``: |s - t|² / |t|², which is the same for a layer of any scale.
    """
    student_NRD, teacher_NRD = _full(student_NRD), _full(teacher_NRD)
    if distance == "cosine":
        return 1 - F.cosine_similarity(student_NRD, teacher_NRD, dim=-1)
    return (student_NRD - teacher_NRD).square().sum(-1) / teacher_NRD.square().sum(-1)


def _in_chunks(loss: Callable[[Tensor, Tensor], Tensor], a_N: Tensor, b_N: Tensor, *, chunk: int) -> Tensor:
    """One loss a position, ``chunk`` positions at a time; what a chunk needs is recomputed in the backward pass."""
    pairs = zip(a_N.split(chunk), b_N.split(chunk), strict=True)
    return torch.cat([checkpoint(loss, a, b, use_reentrant=False) for a, b in pairs])


def _tempered(student_NC: Tensor, teacher_NC: Tensor, temperature: float, divergence: str) -> Tensor:
    """T² times the divergence of two rows of logits or logprobs after division by T; [N]."""
    student_NC = F.log_softmax(student_NC / temperature, dim=-1)
    teacher_NC = F.log_softmax(teacher_NC / temperature, dim=-1)
    if divergence == "forward":
        return temperature**2 * _kl(teacher_NC, student_NC)
    if divergence == "reverse":
        return temperature**2 * _kl(student_NC, teacher_NC)
    middle_NC = torch.logaddexp(student_NC, teacher_NC) - math.log(2)
    return temperature**2 * ((_kl(teacher_NC, middle_NC) + _kl(student_NC, middle_NC)) / 2)


def _kl(p_NC: Tensor, q_NC: Tensor) -> Tensor:
    """KL(p ‖ q) = Σ p (log p - log q) over the last dimension, of logprobs; [N]."""
    return F.kl_div(q_NC, p_NC, reduction="none", log_target=True).sum(-1)


def _full(tensor: Tensor) -> Tensor:
    """At least float32: half precision cannot sum 150,000 probabilities."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
