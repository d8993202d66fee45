"""A shard's rows against what was asked, over an engine that answers by a rule and finishes the last image first."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from sekd.datasets import Dataset, load_dataset
from sekd.inference.requests import StepRequest, StepResult
from sekd.inference.strategies import Strategies, Subject
from sekd.models import load_processor
from sekd.prompts import Prompter
from sekd.store import Layout
from stage1_teacher.config import TeacherConfig
from stage1_teacher.teacher_modes import TEACHER_MODES, on_policy
from stage1_teacher.worker import Shard, ask_shards

IMAGES = range(2, 8)


class ByRule:
    """Every request gets another answer: its options in turn, its own number as top-k ids and hidden states."""

    def __init__(self) -> None:
        self.asked: list[StepRequest] = []
        self.given: list[StepResult] = []
        self.resets: list[int] = []

    def reset(self) -> None:
        self.resets.append(len(self.asked))

    def drive(self, conversations: Iterable[Any]) -> Iterator[Any]:
        given = iter(conversations)
        asked = [self._to_its_end(conversation) for conversation in iter(lambda: next(given, None), None)]
        yield from reversed(asked)

    def _to_its_end(self, conversation: Any) -> Any:
        requests = next(conversation)
        while True:
            try:
                requests = conversation.send([self._answer(request) for request in requests])
            except StopIteration as end:
                return end.value

    def _answer(self, request: StepRequest) -> StepResult:
        number = len(self.asked)
        assert request.letter_ids
        token = request.letter_ids[number % 3]  # three in turn over four steps: no two images are answered alike
        ids, logprobs = np.array([number, number + 1], np.int32), np.array([-0.1 - number, -200.0], np.float32)
        hidden = np.full((1, 3), number, np.float32)
        by_token = (ids[None], logprobs[None])
        self.asked.append(request)
        self.given.append(StepResult((token,), "", ids, logprobs, *by_token, -1.0 - number, 0.5, hidden, 1, 0, 0.0))
        return self.given[-1]


@pytest.fixture
def dataset(config: TeacherConfig) -> Dataset:
    return load_dataset(config.data, config.split)


@pytest.fixture
def strategies(config: TeacherConfig) -> Strategies:
    return Strategies(Prompter.named("terse"), load_processor(config.model), topk=2, capture=True)


@pytest.fixture
def engine() -> ByRule:
    return ByRule()


@pytest.fixture
def shard(engine: Any, strategies: Strategies, dataset: Dataset) -> Shard:
    layout = Layout(k=2, layers=(1,), hidden_size=3, hidden_dtype="float32", vocab_size=99, letter_ids=(1, 2, 3, 4))
    ((_, shard, _),) = ask_shards(
        engine,
        strategies,
        dataset,
        lambda _: IMAGES,
        0,
        more=lambda: None,
        mode=TEACHER_MODES["conditioned"],
        layout=layout,
        report=lambda index, stats: None,
    )
    return shard


def test_every_row_says_what_was_asked_and_answered_in_order_of_example_then_step(
    shard: Shard, engine: ByRule, dataset: Dataset
) -> None:
    assert engine.resets == [0], "the engine starts a shard empty"
    rows = shard.rows.to_pylist()
    asked = [(dataset.examples[place], step) for place in IMAGES for step in range(4)]
    assert len(rows) == len(asked) == len(engine.asked)
    for number, (row, (example, step), request) in enumerate(zip(rows, asked, engine.asked, strict=True)):
        question = dataset.questions(example)[step]
        assert request.image_key == str(dataset.image_path(example))
        assert row["sample"] == example.id
        assert row["image"] == example.image.as_posix()
        assert (row["step"], row["n_steps"], row["depth"]) == (step, 4, question.depth)
        assert (row["level"], row["options"], row["truth"]) == (question.level, list(question.options), question.truth)
        assert row["answer"] == number % 3
        assert row["topk_ids"] == [number, number + 1]
        assert row["topk_logprobs"] == pytest.approx([-0.1 - number, -200.0], rel=1e-5)
        assert row["tail_logprob"] == -1.0 - number
        assert shard.hidden is not None
        assert (shard.hidden[number] == number).all()


def test_each_step_is_told_the_answers_before_it_each_with_its_own_question(
    shard: Shard, engine: ByRule, dataset: Dataset, config: TeacherConfig
) -> None:
    prompter, processor = Prompter.named("terse"), load_processor(config.model)
    for number, request in enumerate(engine.asked):
        first, step = number - number % 4, number % 4
        questions = dataset.questions(dataset.examples[IMAGES[first // 4]])
        said = [earlier % 3 for earlier in range(first, number)]
        assert request.prompt_text == prompter.render(processor, prompter.conditioned(questions, step, said))
        for question, answer in zip(questions, said, strict=False):
            assert question.options[answer] in request.prompt_text
        assert request.letter_ids == tuple(prompter.letter_ids(processor.tokenizer, len(questions[step].options)))


def test_on_policy_gives_the_stored_answers_about_the_very_image(
    engine: Any, strategies: Strategies, dataset: Dataset, config: TeacherConfig
) -> None:
    class Stored:
        def about(self, place: int, sample: str) -> tuple[int, ...]:
            assert sample == dataset.examples[place].id
            return tuple((place + step) % 3 for step in range(4))

    prompter, stored = Prompter.named("terse"), Stored()
    for place in IMAGES:
        about = Subject.of(dataset, dataset.examples[place])
        list(engine.drive([on_policy(strategies, dataset, place, about, stored=stored)]))  # type: ignore[arg-type]
        questions = about.questions
        for step, request in enumerate(engine.asked[-4:]):
            expected = prompter.conditioned(questions, step, stored.about(place, dataset.examples[place].id))
            assert request.prompt_text == prompter.render(load_processor(config.model), expected)
