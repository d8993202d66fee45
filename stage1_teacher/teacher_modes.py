"""The teacher modes (``paradigm=…``): the method, and the controls that isolate its parts.

| mode | how the teacher is asked about an image |
|---|---|
| conditioned | each level in turn, given its own answers to the levels above: the method |
| independent | each level by itself |
| joint | all levels in one forced reply: the student's task before training |
| shuffled | as conditioned, but given its answers about another image |
| truth | as conditioned, but given the labels, which are also stored as its answers: no self-distillation |
| on_policy | as conditioned, but given the answers of another stored pass: a student's joint answers |

Only ``truth`` reads labels, and its store says so. ``on_policy`` scores the student's own prefixes, as DAgger does
(arXiv 1011.0686); it is not in the paper, and no control.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from sekd.datasets import Dataset
from sekd.errors import SekdError
from sekd.inference.requests import UnreadableImageError
from sekd.inference.schedule import Conversation
from sekd.inference.strategies import Answers, GivenAnswers, Strategies, Subject, labels
from sekd.store import Store

TeacherMode = Callable[[Strategies, Dataset, int, Subject], Conversation[Answers]]
OUTSIDE = "outside the tree"


class OutsideTreeError(UnreadableImageError):
    """An image whose first answer is not probable enough, so that its path is empty."""

    kind = OUTSIDE


def subject(strategies: Strategies, dataset: Dataset, place: int) -> Conversation[Subject]:
    """The example at a place and its questions: about its labelled path, or the one that a descent finds first.

    Raises:
        OutsideTreeError: the first answer is less probable than ``data.stop``.
    """
    example, config, tree = dataset.examples[place], dataset.config, dataset.taxonomy
    about = Subject.of(dataset, example)
    if not config.by_descent:
        return about
    found = yield from strategies.descend(about, tree, roots=dataset.roots, options=config.options, beam=config.beam)
    path = found.paths[0]
    sure = path.levels_kept(config.stop)
    if not sure:
        first = math.exp(path.logprobs[path.questions[0].depth - tree.skip])
        raise OutsideTreeError(example.id, f"the first answer has a probability of {first:.2f}, below {config.stop}")
    questions = dataset.questions_on(example, path.node[: tree.skip + sure])
    return replace(
        about,
        questions=tuple(replace(question, truth=None) for question in questions),
        path_logprobs=tuple(path.logprobs[question.depth - tree.skip] for question in questions),
    )


def shuffled(strategies: Strategies, dataset: Dataset, place: int, about: Subject) -> Conversation[Answers]:
    """The other image is the next readable one; the examples are already in random order."""
    count = len(dataset.examples)
    for other in ((place + distance) % count for distance in range(1, count)):
        try:
            elsewhere = yield from subject(strategies, dataset, other)
            theirs = yield from strategies.conditioned(elsewhere)
        except UnreadableImageError:
            continue
        given = GivenAnswers(elsewhere.questions, tuple(answer for answer in theirs.chosen if answer is not None))
        return (yield from strategies.conditioned(about, given))
    raise SekdError("paradigm=shuffled gives the answers about another image: it needs two that can be read")


def truth(strategies: Strategies, dataset: Dataset, place: int, about: Subject) -> Conversation[Answers]:
    true = labels(about, "paradigm=truth")
    answers = yield from strategies.conditioned(about, GivenAnswers(about.questions, true))
    return replace(answers, chosen=true)


def on_policy(
    strategies: Strategies, dataset: Dataset, place: int, about: Subject, *, stored: "StoredAnswers"
) -> Conversation[Answers]:
    given = GivenAnswers(about.questions, stored.about(place, about.sample))
    return (yield from strategies.conditioned(about, given))


TEACHER_MODES: dict[str, TeacherMode] = {
    "conditioned": lambda strategies, _, __, about: strategies.conditioned(about),
    "independent": lambda strategies, _, __, about: strategies.independent(about),
    "joint": lambda strategies, _, __, about: strategies.guided(about),
    "shuffled": shuffled,
    "truth": truth,
}
ON_POLICY = "on_policy"
USES_LABELS = ("truth",)


def teacher_mode(name: str, dataset: Dataset, prefixes: str | None) -> TeacherMode:
    """The mode of that name; ``prefixes`` is the store whose answers ``on_policy`` gives."""
    return partial(on_policy, stored=StoredAnswers(Path(prefixes), dataset)) if prefixes else TEACHER_MODES[name]


class NoPrefixError(UnreadableImageError):
    """The pass with the prefixes skipped this image, so this one does too."""

    kind = "no prefixes"


class StoredAnswers:
    """The answers of a stored pass, by example.

    Args:
        path: a complete store of the same examples as ``dataset``.

    Raises:
        SekdError: it is incomplete, or of other examples or questions.
    """

    def __init__(self, path: Path, dataset: Dataset) -> None:
        self.store = Store.open(path)
        if missing := self.store.missing():
            raise SekdError(f"teacher.prefixes: {path} lacks {len(missing)} of {self.store.plan.n_shards} shards")
        if self.store.identity["data"] != dataset.identity():
            raise SekdError(f"teacher.prefixes: {path} is of other images or questions than this pass")
        self._shard = -1
        self._answers: dict[str, tuple[int, ...]] = {}

    def about(self, place: int, sample: str) -> tuple[int, ...]:
        """The answers about the example at an index. Keeps one shard in memory, so ask in order.

        Raises:
            NoPrefixError: that pass skipped the example.
        """
        if (shard := place // self.store.plan.shard_size) != self._shard:
            self._shard, self._answers = shard, self._read(shard)
        if sample not in self._answers:
            raise NoPrefixError(sample, self.store.entry(shard).skipped.get(sample, "no reason given"))
        return self._answers[sample]

    def _read(self, shard: int) -> dict[str, tuple[int, ...]]:
        answers: dict[str, tuple[int, ...]] = defaultdict(tuple)
        for row in self.store.read_targets(shard, ["sample", "answer"]).to_pylist():
            answers[row["sample"]] += (row["answer"],)
        return answers
