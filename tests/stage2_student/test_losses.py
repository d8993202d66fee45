"""The losses against torch's own, a dense teacher and numerical gradients."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stage2_student import losses

N, V, D = 6, 23, 8
DIVERGENCES = ["forward", "reverse", "js"]


def rows(seed: int = 0, *, vocabulary: int = V, dtype: torch.dtype = torch.float32) -> tuple:
    """Student's and teacher's logits [N, V]."""
    torch.manual_seed(seed)
    return torch.randn(N, vocabulary, dtype=dtype) * 2, torch.randn(N, vocabulary, dtype=dtype) * 2


def stored(teacher_NV: torch.Tensor, k: int) -> tuple:
    """What stage 1 keeps of a dense teacher: candidates' ids and logprobs, and the log of the mass outside them."""
    logprobs, ids = F.log_softmax(teacher_NV, -1).topk(k, -1)
    return ids, logprobs, torch.log1p(-logprobs.exp().sum(-1).clamp(max=1)).float()


def dense(student_NV: torch.Tensor, teacher_NV: torch.Tensor, temperature: float, kind: str) -> torch.Tensor:
    """The textbook divergence on plain probabilities."""
    q, p = (F.softmax(row / temperature, -1) for row in (student_NV, teacher_NV))
    m = (p + q) / 2
    kl = {
        "forward": (p * (p / q).log()).sum(-1),
        "reverse": (q * (q / p).log()).sum(-1),
        "js": ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2,
    }
    return temperature**2 * kl[kind]


def test_hard_loss_is_torchs_cross_entropy_on_the_teachers_answer() -> None:
    student, _ = rows()
    answers = torch.tensor([0, 5, 1, 22, 7, 7])
    torch.testing.assert_close(losses.hard(student, answers).mean(), F.cross_entropy(student, answers))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_soft_loss_over_the_whole_vocabulary_is_torchs_kl_div(temperature: float) -> None:
    student, teacher = rows()
    got = losses.soft(student, *stored(teacher, V), temperature=temperature)
    expected = F.kl_div(
        F.log_softmax(student / temperature, -1), F.softmax(teacher / temperature, -1), reduction="batchmean"
    )
    torch.testing.assert_close(got.mean(), expected * temperature**2, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_each_divergence_over_the_whole_vocabulary_is_the_textbooks(kind: str, temperature: float) -> None:
    student, teacher = rows(1)
    got = losses.soft(student, *stored(teacher, V), temperature=temperature, divergence=kind)
    torch.testing.assert_close(got, dense(student, teacher, temperature, kind), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_the_tail_bucket_holds_all_the_mass_outside_the_candidates(kind: str) -> None:
    student, teacher = rows(2)
    ids, logprobs, tail = stored(teacher, 5)
    q, p = F.softmax(student, -1), F.softmax(teacher, -1)
    merged = [torch.cat([mass.gather(-1, ids), 1 - mass.gather(-1, ids).sum(-1, True)], -1) for mass in (q, p)]
    got = losses.soft(student, ids, logprobs, tail, temperature=1.0, divergence=kind)
    torch.testing.assert_close(got, dense(merged[0].log(), merged[1].log(), 1.0, kind), atol=1e-5, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, V - 1), temperature=st.sampled_from([1.0, 2.0, 4.0]))
def test_a_student_equal_to_its_teacher_has_no_soft_loss_at_any_k(seed: int, k: int, temperature: float) -> None:
    _, teacher = rows(seed)
    for kind in DIVERGENCES:
        loss = losses.soft(teacher, *stored(teacher, k), temperature=temperature, divergence=kind)
        torch.testing.assert_close(loss, torch.zeros(N), atol=2e-5, rtol=0)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, V - 1))
def test_merging_the_tail_never_adds_to_the_dense_loss_and_more_candidates_come_closer(seed: int, k: int) -> None:
    student, teacher = rows(seed)
    whole = dense(student, teacher, 1.0, "forward")
    fewer, more = (losses.soft(student, *stored(teacher, n), temperature=1.0) for n in (k, k + 1))
    assert (fewer >= -1e-5).all()
    assert (fewer <= more + 1e-4).all()
    assert (more <= whole + 1e-4).all()


def test_using_fewer_candidates_than_stored_equals_having_stored_fewer() -> None:
    _, teacher = rows(3)
    ids, logprobs, tail = stored(teacher, 12)
    expected_ids, expected_logprobs, expected_tail = stored(teacher, 4)
    kept, kept_tail = losses.keep_candidates(logprobs, tail, 4)
    assert torch.equal(ids[:, :4], expected_ids)
    torch.testing.assert_close(kept, expected_logprobs)
    torch.testing.assert_close(kept_tail, expected_tail)


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_a_teacher_that_is_certain_gives_finite_losses_and_gradients(kind: str) -> None:
    student, _ = rows(4)
    student.requires_grad_()
    teacher = torch.full((N, V), -200.0)
    teacher[:, 3] = 200.0
    ids, logprobs, _ = stored(teacher, 4)
    loss = losses.soft(student, ids, logprobs, torch.full((N,), -math.inf), temperature=2.0, divergence=kind)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_exact_loss_equals_the_dense_kl_of_a_live_teacher_through_the_shared_head(kind: str, chunk: int) -> None:
    torch.manual_seed(5)
    head = torch.nn.Linear(D, V, bias=False)
    student, teacher = torch.randn(N, D), torch.randn(N, D)
    got = losses.exact(student, teacher, head, temperature=2.0, divergence=kind, chunk=chunk)
    torch.testing.assert_close(got, dense(head(student), head(teacher), 2.0, kind), atol=1e-5, rtol=1e-5)


def test_exact_gradients_do_not_depend_on_the_chunk() -> None:
    torch.manual_seed(6)
    head = torch.nn.Linear(D, V, bias=False).requires_grad_(False)
    teacher, student = torch.randn(N, D), torch.randn(N, D, requires_grad=True)
    gradients = [
        torch.autograd.grad(losses.exact(student, teacher, head, temperature=2.0, chunk=chunk).sum(), student)[0]
        for chunk in (2, N)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("k", [3, V])
def test_soft_gradients_agree_with_finite_differences(kind: str, k: int) -> None:
    student, teacher = rows(7, dtype=torch.float64)
    ids, logprobs, tail = stored(teacher, k)
    tail = tail.double()
    student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda logits: losses.soft(logits, ids, logprobs, tail, temperature=2.0, divergence=kind), (student,)
    )


@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_hidden_gradients_agree_with_finite_differences(distance: str) -> None:
    torch.manual_seed(8)
    student = torch.randn(3, 2, D, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 2, D, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: losses.hidden(s, teacher, distance=distance), (student,))


def test_hidden_distances_are_zero_for_equal_states_and_ignore_the_scale_of_a_layer() -> None:
    torch.manual_seed(9)
    teacher = torch.randn(N, 2, D)
    for distance in ("cosine", "mse"):
        torch.testing.assert_close(losses.hidden(teacher, teacher, distance=distance), torch.zeros(N, 2))
    student = torch.randn(N, 2, D)
    scaled = losses.hidden(student * 100, teacher * 100, distance="mse")
    torch.testing.assert_close(scaled, losses.hidden(student, teacher, distance="mse"))
    assert losses.hidden(-teacher, teacher, distance="cosine").allclose(torch.tensor(2.0))


def test_chunked_cross_entropy_is_that_of_all_logits_at_once() -> None:
    torch.manual_seed(10)
    head = torch.nn.Linear(D, V, bias=False)
    states, tokens = torch.randn(N, D), torch.randint(0, V, (N,))
    torch.testing.assert_close(
        losses.chunked_hard(states, tokens, head, chunk=4), losses.hard(head(states), tokens), atol=1e-6, rtol=1e-6
    )
