"""Soft targets without the mass on a wrong parent's children."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from student_settings import Configure

from sekd.errors import SekdError
from sekd.questions import Question
from sekd.store import Store
from sekd.taxonomy import Taxonomy
from stage2_student.config import LossConfig, SoftConfig
from stage2_student.consistency import Consistency
from stage2_student.stored import Candidates, TeacherPath
from stage2_student.training import assemble

TREE = Taxonomy(
    [
        ("animals", "cats", "big cats", "lion"),
        ("animals", "cats", "big cats", "tiger"),
        ("animals", "cats", "small cats", "lynx"),
        ("animals", "dogs", "wolves", "wolf"),
        ("animals", "dogs", "foxes", "Lion"),  # a name that stands below two parents
    ],
    skip=1,
)
LETTERS = (10, 11, 12, 13)
FAMILY = Question(1, "family", ("cats", "dogs"), truth=None)
GENUS = Question(2, "genus", ("Wolves", "big cats", "foxes", "small cats"), truth=None)
PROBABILITIES = {10: 0.2, 11: 0.3, 12: 0.1, 13: 0.25, 50: 0.1}  # and 0.05 outside the candidates


def path_of(family: int, asked: Question = GENUS, said: dict[int, float] = PROBABILITIES) -> TeacherPath:
    """A path whose second question is the one in hand, and whose first answer is ``family``."""
    ids = np.array(list(said), np.int32)
    logprobs = np.log(np.array(list(said.values()), np.float32))
    tail = np.log(np.float32(1 - sum(said.values())))
    candidates = Candidates(np.stack([ids, ids]), np.stack([logprobs, logprobs]), np.array([tail, tail]))
    return TeacherPath("image.jpg", (FAMILY, asked), (family, 1), candidates, None)


def corrected(path: TeacherPath) -> tuple[dict[int, float], float]:
    """The second step's probabilities by token, and its tail's, after the correction."""
    candidates = Consistency(TREE, LETTERS)(path).candidates
    assert candidates is not None
    return (
        dict(zip(candidates.ids_SK[1].tolist(), np.exp(candidates.logprobs_SK[1]), strict=True)),
        float(np.exp(candidates.tail_S[1])),
    )


def test_the_mass_on_another_parents_children_is_taken_and_the_rest_made_whole() -> None:
    probabilities, tail = corrected(path_of(family=0))  # cats: neither wolves nor foxes
    left = 1 - PROBABILITIES[10] - PROBABILITIES[12]
    expected = {10: 0, 11: 0.3 / left, 12: 0, 13: 0.25 / left, 50: 0.1 / left}
    assert probabilities == pytest.approx(expected, abs=1e-6)
    assert tail == pytest.approx(0.05 / left, abs=1e-6)


def test_the_first_step_has_no_parent_and_stays_as_it_is() -> None:
    path = path_of(family=0)
    candidates = Consistency(TREE, LETTERS)(path).candidates
    assert candidates is not None
    assert path.candidates is not None
    np.testing.assert_allclose(candidates.logprobs_SK[0], path.candidates.logprobs_SK[0], atol=1e-6)


def test_a_question_without_a_child_of_the_answer_above_stays_as_it_is() -> None:
    """The teacher took the wrong family: nothing that is asked next lies below it."""
    only_dogs = Question(2, "genus", ("wolves", "foxes"), truth=None)
    probabilities, tail = corrected(path_of(family=0, asked=only_dogs))
    assert probabilities == pytest.approx(PROBABILITIES, abs=1e-6)
    assert tail == pytest.approx(0.05, abs=1e-6)


def test_a_name_below_two_parents_is_a_child_of_both_whatever_its_case() -> None:
    species = Question(3, "species", ("LION", "wolf"), truth=None)
    for family, kept in ((0, {10}), (1, {10, 11})):
        probabilities, _ = corrected(path_of(family=family, asked=species, said={10: 0.6, 11: 0.3}))
        assert {token for token, value in probabilities.items() if value > 1e-3} == kept


def test_candidates_that_are_all_taken_leave_the_tail_even_where_none_was_stored() -> None:
    path = path_of(family=0, said={10: 1.0})  # the one candidate kept is a wolf, and cats were answered above
    assert path.candidates is not None
    assert path.candidates.tail_S[1] == -np.inf
    probabilities, tail = corrected(path)
    assert probabilities[10] < 1e-6
    assert tail == pytest.approx(1)


def test_what_is_left_can_be_learnt_from(configure: Configure, store: Store) -> None:
    """Mass that was taken away is finite in the logarithm, so that the loss is."""
    loss = LossConfig(soft=SoftConfig(consistent=True))
    module, data = assemble(configure(loss=loss), store)
    plain = next(iter(assemble(configure(), store)[1].train_dataloader()))
    batch = next(iter(data.train_dataloader()))
    assert batch.candidates is not None
    assert plain.candidates is not None
    assert not torch.equal(batch.candidates.logprobs_NK, plain.candidates.logprobs_NK)
    mass = batch.candidates.logprobs_NK.exp().sum(1) + batch.candidates.tail_N.exp()
    torch.testing.assert_close(mass, torch.ones_like(mass), atol=1e-3, rtol=0)
    assert torch.isfinite(module.training_outcome(batch).total)


def test_the_tree_must_be_the_one_that_was_asked_about(configure: Configure, store: Store) -> None:
    config = configure(loss=LossConfig(soft=SoftConfig(consistent=True)))
    other = replace(config, data=replace(config.data, within={}))
    with pytest.raises(SekdError, match=r"is not the one that .* was asked about"):
        assemble(other, store)


def test_the_exact_distribution_is_not_corrected(configure: Configure, store: Store) -> None:
    with pytest.raises(SekdError, match=r"take loss\.soft\.source=topk"):
        assemble(configure(loss=LossConfig(soft=SoftConfig(consistent=True, source="exact"))), store)
