"""Who teaches what: the method, and the controls that show which part of it does the work.

| paradigm | how the teacher is asked |
|---|---|
| conditioned | each level in turn, told its own answers to the levels above: the method |
| independent | each level by itself |
| joint | all levels in one reply, held to its form: what the student could do before |
| shuffled | as conditioned, but told its answers about another image |
| truth | as conditioned, but told the labels, which are also stored as its answers: no self-distillation |
| on_policy | as conditioned, but told the answers of another stored pass: what a student says all at once |

``truth`` alone reads labels, and its store says so. ``on_policy`` scores the prefixes that the student itself comes
upon, as DAgger does (arXiv 1011.0686): beyond the paper, and no control.
"""

from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sekd.datasets import Dataset
from sekd.errors import SekdError
from sekd.inference.paradigms import Answers, Asker, History, Subject
from sekd.inference.requests import UnreadableImageError
from sekd.store import Store

Lesson = Generator[Any, Any, Answers]
Teaching = Callable[[Asker, Dataset, int], Lesson]


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


class NoPrefixError(UnreadableImageError):
    """An image that the pass with the prefixes skipped, so that this one skips it too. ``why`` it did so then."""

    def __init__(self, key: str, why: str) -> None:
        Exception.__init__(self, f"{key}: no prefixes")
        self.reason = f"no prefixes: {why}"


class Said:
    """The answers of a stored pass, by example.

    Args:
        path: a whole store over the very examples of ``dataset``.

    Raises:
        SekdError: it is not whole, or of other examples or questions.
    """

    def __init__(self, path: Path, dataset: Dataset) -> None:
        self.store = Store.open(path)
        if missing := self.store.missing():
            raise SekdError(f"teacher.prefixes: {path} lacks {len(missing)} of {self.store.plan.n_shards} shards")
        if self.store.identity["data"] != dataset.identity():
            raise SekdError(f"teacher.prefixes: {path} is of other images or questions than this pass")
        self._shard = -1
        self._answers: dict[str, tuple[int, ...]] = {}

    def about(self, place: int, key: str) -> tuple[int, ...]:
        """The answers about the example at a place; the shards are expected one after the other.

        Raises:
            NoPrefixError: that pass skipped the example.
        """
        if (shard := place // self.store.plan.shard_size) != self._shard:
            self._shard, self._answers = shard, self._read(shard)
        if key not in self._answers:
            raise NoPrefixError(key, self.store.entry(shard).skipped.get(key, "no reason given"))
        return self._answers[key]

    def _read(self, shard: int) -> dict[str, tuple[int, ...]]:
        answers: dict[str, tuple[int, ...]] = {}
        for row in self.store.read_targets(shard, ["sample", "answer"]).to_pylist():
            answers[row["sample"]] = (*answers.get(row["sample"], ()), row["answer"])
        return answers


def on_policy(asker: Asker, dataset: Dataset, place: int, *, said: Said) -> Lesson:
    about = subject(dataset, place)
    return (yield from asker.conditioned(about, History(about.questions, said.about(place, about.key))))


def teaching(paradigm: str, dataset: Dataset, prefixes: str | None) -> Teaching:
    """How each example is asked about."""
    if paradigm == ON_POLICY:
        assert prefixes is not None, "the settings were checked"
        return partial(on_policy, said=Said(Path(prefixes), dataset))
    return TEACHING[paradigm]


TEACHING: dict[str, Teaching] = {
    "conditioned": conditioned,
    "independent": independent,
    "joint": joint,
    "shuffled": shuffled,
    "truth": truth,
}
ON_POLICY = "on_policy"
USES_LABELS = ("truth",)
