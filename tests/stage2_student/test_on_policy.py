"""Replies that say what the student said, with targets that the teacher gave after those very words."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from student_settings import Configure

from sekd.errors import SekdError
from sekd.models import ModelConfig, load_processor
from sekd.prompts import Prompter
from sekd.questions import Question
from sekd.store import Layout, Plan, Store, schema
from stage2_student.batch import Batch
from stage2_student.config import OptimConfig, StudentConfig, ValidationConfig
from stage2_student.training import assemble


def copied(
    store: Store, folder: Path, *, turned: int = 0, images: str = "", skipped: Sequence[int] = (), **identity: str
) -> Store:
    """The same pass, with every answer ``turned`` by so many letters, image paths that begin with ``images``, and
    without the examples of the numbers ``skipped``."""
    samples = list(dict.fromkeys(row["sample"] for row in _rows(store)))
    gone = {samples[number]: "unreadable image" for number in skipped}
    plan, layout = Plan(store.plan.n_examples, store.plan.shard_size), Layout(**{**vars(store.layout), "layers": ()})
    other = Store.create(folder, identity={**store.identity, **identity}, plan=plan, layout=layout)
    for shard in other.missing():
        rows = store.read_targets(shard).to_pylist()
        changed = [{**row, "answer": (row["answer"] + turned) % 4, "image": images + row["image"]} for row in rows]
        kept = [row for row in changed if row["sample"] not in gone]
        own = {name: why for name, why in gone.items() if name in {row["sample"] for row in changed}}
        other.write_shard(shard, pa.Table.from_pylist(kept, schema=schema(layout)), None, {}, skipped=own)
    return other


@pytest.fixture
def said(store: Store, tmp_path: Path) -> Store:
    """What the student said: never what the teacher did."""
    return copied(store, tmp_path, turned=1, paradigm="joint")


@pytest.fixture
def scored(store: Store, said: Store, tmp_path: Path) -> Store:
    """The teacher's answers after the student's prefixes."""
    return copied(store, tmp_path, paradigm="on_policy", prefixes=said.fingerprint)


def one(config: StudentConfig, store: Store) -> Batch:
    return next(iter(assemble(config, store)[1].train_dataloader()))


def settings(configure: Configure) -> StudentConfig:
    config = configure(optim=OptimConfig(batch_size=1), validation=ValidationConfig(held_out=0.0, images=0))
    config.loss.hidden.weight = 0.0
    return config


def test_the_reply_says_the_students_answers_and_aims_at_the_teachers(
    configure: Configure, store: Store, scored: Store, model: ModelConfig
) -> None:
    batch = one(settings(configure), scored)
    tokenizer, prompter = load_processor(model).tokenizer, Prompter.named(model.wording)
    letters = prompter.letter_ids(tokenizer, 4)
    rows = [row for row in _rows(store) if row["image"] == batch.names[0]]
    teachers = [row["answer"] for row in rows]
    assert batch.answers_N.tolist() == teachers
    assert batch.answer_positions.tokens.tolist() == [letters[answer] for answer in teachers]
    questions = [Question(row["depth"], row["level"], tuple(row["options"]), truth=None) for row in rows]
    students = [(answer + 1) % 4 for answer in teachers]
    expected, _ = prompter.answer_tokens(tokenizer, questions, students)
    ids = batch.inputs["input_ids"][0].tolist()
    assert ids[-len(expected) - 1 :] == [*expected, tokenizer.eos_token_id]


def test_a_pass_that_was_told_its_own_answers_says_them(configure: Configure, store: Store) -> None:
    batch = one(settings(configure), store)
    in_text = batch.inputs["input_ids"][batch.answer_positions.rows, batch.answer_positions.places + 1]
    assert in_text.tolist() == batch.answer_positions.tokens.tolist()


def test_prefixes_that_are_gone_or_of_other_images_are_refused(
    configure: Configure, store: Store, tmp_path: Path
) -> None:
    gone = copied(store, tmp_path, paradigm="on_policy", prefixes="0" * 16)
    with pytest.raises(SekdError, match="holds no store"):
        one(settings(configure), gone)
    moved = copied(store, tmp_path, images="elsewhere/", paradigm="joint")
    other = copied(store, tmp_path, paradigm="on_policy", prefixes=moved.fingerprint)
    with pytest.raises(SekdError, match=r"shard \d has no answers about .*, though the teacher was given them"):
        one(settings(configure), other)


def test_an_image_that_was_skipped_when_its_answers_were_scored_shifts_no_other(
    configure: Configure, store: Store, said: Store, tmp_path: Path
) -> None:
    scored = copied(store, tmp_path, paradigm="on_policy", prefixes=said.fingerprint, skipped=[1, 17])
    _, data = assemble(settings(configure), scored)
    students = {}
    for row in _rows(said):
        students.setdefault(row["image"], []).append(row["answer"])
    batches = [batch for batch, _ in zip(data.train_dataloader(), range(48), strict=True)]
    assert len({batch.names[0] for batch in batches}) == 48
    for batch in batches:
        in_text = batch.inputs["input_ids"][batch.answer_positions.rows, batch.answer_positions.places + 1].tolist()
        letters = list(store.layout.letter_ids)
        assert [letters.index(token) for token in in_text] == students[batch.names[0]]


def _rows(store: Store) -> list[dict]:
    return pa.concat_tables(store.read_targets(index) for index in range(store.plan.n_shards)).to_pylist()
