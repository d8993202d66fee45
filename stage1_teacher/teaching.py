"""Who teaches what: the method, and the controls that show which part of it does the work.

| paradigm | how the teacher is asked |
|---|---|
| conditioned | each level in turn, told its own answers to the levels above: the method |
| independent | each level by itself |
| joint | all levels in one reply, held to its form: what the student could do before |
| shuffled | as conditioned, but told its answers about another image |
| truth | as conditioned, but told the labels, which are also stored as its answers: no self-distillation |

``truth`` alone reads labels, and its store says so.
"""

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

from sekd.datasets import Dataset
from sekd.errors import SekdError
from sekd.inference.paradigms import Answers, Asker, History, Subject
from sekd.inference.requests import UnreadableImageError

Lesson = Generator[Any, Any, Answers]


def subject(dataset: Dataset, place: int) -> Subject:
    """An example as the engine is asked about it."""
    example = dataset.examples[place]
    return Subject(dataset.image_path(example), example.id, dataset.questions(example))


def conditioned(asker: Asker, dataset: Dataset, place: int) -> Lesson:
    return asker.conditioned(subject(dataset, place))


def independent(asker: Asker, dataset: Dataset, place: int) -> Lesson:
    return asker.independent(subject(dataset, place))


def joint(asker: Asker, dataset: Dataset, place: int) -> Lesson:
    return asker.held(subject(dataset, place))


def shuffled(asker: Asker, dataset: Dataset, place: int) -> Lesson:
    """The other image is the next one that can be read: the examples' own order is shuffled."""
    count = len(dataset.examples)
    for other in ((place + distance) % count for distance in range(1, count)):
        elsewhere = subject(dataset, other)
        try:
            said = yield from asker.conditioned(elsewhere)
        except UnreadableImageError:
            continue
        told = History(elsewhere.questions, tuple(answer for answer in said.chosen if answer is not None))
        return (yield from asker.conditioned(subject(dataset, place), told))
    raise SekdError("paradigm=shuffled tells the answers about another image: it needs two that can be read")


def truth(asker: Asker, dataset: Dataset, place: int) -> Lesson:
    about = subject(dataset, place)
    labels = tuple(question.truth for question in about.questions if question.truth is not None)
    if len(labels) < len(about.questions):
        raise SekdError(f"paradigm=truth needs the labels of every image: those of {about.key} are not known")
    answers = yield from asker.conditioned(about, History(about.questions, labels))
    return replace(answers, chosen=labels)


TEACHING: dict[str, Callable[[Asker, Dataset, int], Lesson]] = {
    "conditioned": conditioned,
    "independent": independent,
    "joint": joint,
    "shuffled": shuffled,
    "truth": truth,
}
USES_LABELS = ("truth",)
