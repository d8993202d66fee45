"""Single questions of another pass, asked beside the paths so that they are not forgotten."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hf_teacher import store_pass, without
from student_settings import PLAIN, Configure

from sekd.datasets import DataConfig, load_dataset
from sekd.errors import SekdError
from sekd.models import ModelConfig, load_processor
from sekd.prompts import Prompter
from sekd.store import Store
from stage2_student.batch import Batch
from stage2_student.checks import check_settings
from stage2_student.config import (
    OptimConfig,
    RehearsalConfig,
    StreamConfig,
    StudentConfig,
    ValidationConfig,
)
from stage2_student.encode import Encoder, read_image
from stage2_student.module import StudentModule
from stage2_student.stored import Single, TeacherPath
from stage2_student.training import assemble

LEVELS = ("order", "family", "genus", "species")


@pytest.fixture(scope="module")
def independent(tmp_path_factory: pytest.TempPathFactory, model: ModelConfig, data: DataConfig) -> Store:
    """The levels asked one by one, without the answers above."""
    return store_pass(tmp_path_factory.mktemp("independent"), model=model, data=data, paradigm="independent")


def batches(config: StudentConfig, store: Store, rehearsed: Store) -> tuple[StudentModule, list[Batch]]:
    """One epoch."""
    module, data = assemble(config, store, rehearsed)
    return module, list(data.train_dataloader())


def letters_of(batch: Batch) -> Counter[int]:
    """How many letters each row of a batch is asked for."""
    return Counter(batch.answer_positions.rows.tolist())


@pytest.mark.parametrize("paradigm", ["independent", "conditioned"])
def test_an_untrained_student_agrees_with_a_teacher_that_was_asked_the_same(
    paradigm: str, configure: Configure, store: Store, independent: Store
) -> None:
    """The student is the teacher until its first step: any other prompt or place than the teacher's would show."""
    rehearsed = {"independent": independent, "conditioned": store}[paradigm]
    config = configure(
        lora=PLAIN,
        rehearsal=RehearsalConfig(paradigm=paradigm, share=1.0),
        optim=OptimConfig(batch_size=1, epochs=1),
        stream=StreamConfig(workers=0),
    )
    module, epoch = batches(config, store, rehearsed)
    singles = [batch for batch in epoch if letters_of(batch) == {0: 1}]
    assert len(singles) == len(epoch) / 2
    for batch in singles:
        terms = module.training_loss(batch).terms_N
        assert float(terms["hidden"]) < 1e-5
        assert float(terms["soft"]) < 1e-4


def test_a_conditioned_question_is_told_the_answers_above_it_in_their_order(
    model: ModelConfig, data: DataConfig
) -> None:
    """Answers that all differ; an untrained teacher's seldom do."""
    dataset = load_dataset(data, "train")
    example, answers, step = dataset.examples[0], (0, 1, 2, 3), 3
    questions = dataset.questions(example)
    path = TeacherPath(str(example.image), questions, answers, None, None, Single("conditioned", step))
    batch = Encoder(model, dataset.root).batch([path], images=1, all_images=1, world=1)
    processor, prompter = load_processor(model), Prompter.named(model.wording)
    prompt = prompter.render(processor, prompter.conditioned(questions, step, answers[:step]))
    expected = processor(text=[prompt], images=[read_image(dataset.image_path(example))])["input_ids"][0]
    assert batch.inputs["input_ids"][0].tolist()[:-1] == list(expected)


@pytest.mark.parametrize(("held_out", "paths", "questions"), [(0.1, 45, 23), (0.0, 50, 25)])
def test_every_second_path_brings_a_single_question_and_the_levels_take_turns(
    held_out: float, paths: int, questions: int, configure: Configure, store: Store, independent: Store
) -> None:
    config = configure(
        rehearsal=RehearsalConfig(paradigm="independent", share=0.5),
        optim=OptimConfig(epochs=1),
        validation=ValidationConfig(held_out=held_out, images=0),
    )
    _, epoch = batches(config, store, independent)
    per_row = Counter(count for batch in epoch for count in letters_of(batch).values())
    assert per_row == {4: paths, 1: questions}
    asked = Counter(
        batch.level_names[batch.levels_N[place]]
        for batch in epoch
        for place, row in enumerate(batch.answer_positions.rows.tolist())
        if letters_of(batch)[row] == 1
    )
    assert set(asked) == set(LEVELS)
    assert max(asked.values()) - min(asked.values()) <= 3  # a shard begins with the first level again


def test_a_single_question_weighs_as_much_as_a_path(configure: Configure, store: Store, independent: Store) -> None:
    _, epoch = batches(configure(rehearsal=RehearsalConfig(paradigm="independent")), store, independent)
    for batch in epoch:
        rows = batch.answer_positions.rows
        shares = torch.zeros(int(rows.max()) + 1).index_add(0, rows, batch.shares_N)
        torch.testing.assert_close(shares, torch.full_like(shares, 1 / batch.images))


def test_what_is_held_out_of_the_paths_is_not_rehearsed(configure: Configure, store: Store, independent: Store) -> None:
    config = configure(rehearsal=RehearsalConfig(paradigm="independent", share=1.0))
    _, data = assemble(config, store, independent)
    held_out = {name for batch in data.val_dataloader()[0] for name in batch.names}  # type: ignore[union-attr]
    trained_on = {name for batch in data.train_dataloader() for name in batch.names}
    assert held_out
    assert not held_out & trained_on


def test_no_held_out_image_is_trained_on_where_the_two_passes_skipped_different_images(
    tmp_path: Path, configure: Configure, data: DataConfig, store: Store, independent: Store
) -> None:
    """Every tenth image is held out: counted over the images that are there, the two passes would differ."""
    examples = load_dataset(data, "train").examples
    main = without(store, tmp_path / "main", {examples[place].id for place in (0, 9, 20)})
    other = without(independent, tmp_path / "other", {examples[place].id for place in (1, 2, 18, 39)})
    config = configure(rehearsal=RehearsalConfig(paradigm="independent", share=1.0), optim=OptimConfig(epochs=1))
    _, held = assemble(config, main, other)
    held_out = {name for batch in held.val_dataloader()[0] for name in batch.names}  # type: ignore[union-attr]
    assert held_out == {str(examples[place].image) for place in (19, 29, 39, 49)}  # number 9 was skipped
    trained_on = Counter(name for batch in held.train_dataloader() for name in batch.names)
    assert not held_out & trained_on.keys()
    once = {str(examples[place].image) for place in (0, 1, 2, 18, 20)}  # held by one pass of the two
    everything = {str(example.image) for place, example in enumerate(examples) if place % 10 != 9}
    assert trained_on == {name: 1 if name in once else 2 for name in everything}


def test_which_images_were_skipped_is_told_by_the_dataset_that_was_asked_about(
    tmp_path: Path, configure: Configure, data: DataConfig, store: Store
) -> None:
    main = without(store, tmp_path, {load_dataset(data, "train").examples[0].id})
    other = replace(configure(), data=replace(data, seed=7))
    with pytest.raises(SekdError, match="skipped 1 images, and which ones cannot be told: the dataset in"):
        assemble(other, main)
    assemble(other, store)  # nothing was skipped: nothing is asked


def test_nothing_changes_where_nothing_is_rehearsed(configure: Configure, store: Store) -> None:
    _, data = assemble(configure(), store)
    assert {count for batch in data.train_dataloader() for count in letters_of(batch).values()} == {4}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (RehearsalConfig(paradigm="joint"), "choose independent, conditioned"),
        (RehearsalConfig(paradigm="independent", share=0.0), "share is above 0"),
        (RehearsalConfig(paradigm="independent", share=1.5), "at most 1, not 1.5"),
        (RehearsalConfig(store="artifacts/demo/0"), "say how it was asked"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused_at_once(changed: RehearsalConfig, said: str, configure: Configure) -> None:
    with pytest.raises(SekdError, match=said):
        check_settings(configure(rehearsal=changed))


def test_a_pass_of_another_paradigm_than_the_settings_name_is_not_rehearsed(configure: Configure, store: Store) -> None:
    with pytest.raises(SekdError, match=r"asked in paradigm=conditioned, but rehearsal\.paradigm=independent"):
        assemble(configure(rehearsal=RehearsalConfig(paradigm="independent")), store, store)


def test_a_pass_over_other_images_is_not_rehearsed(
    tmp_path: Path, configure: Configure, model: ModelConfig, data: DataConfig, store: Store
) -> None:
    other = store_pass(tmp_path, model=model, data=replace(data, seed=7), paradigm="independent")
    with pytest.raises(SekdError, match=r"is of other data than .*paradigm=independent"):
        assemble(configure(rehearsal=RehearsalConfig(paradigm="independent")), store, other)


def test_a_pass_with_other_targets_is_not_rehearsed(
    tmp_path: Path, configure: Configure, model: ModelConfig, data: DataConfig, store: Store
) -> None:
    other = store_pass(tmp_path, model=model, data=data, k=4, paradigm="independent")
    with pytest.raises(SekdError, match="is of other targets"):
        assemble(configure(rehearsal=RehearsalConfig(paradigm="independent")), store, other)
