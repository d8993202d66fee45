"""Reads the teacher's answers back from the store, example by example, and only the columns that a loss asks for.

Knows nothing about prompts or tokens. The truth is never read: the column is not even asked for.

Shape legend: S steps of one example, K candidates, R layers, D hidden size.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch

from sekd.errors import SekdError
from sekd.questions import Question
from sekd.store import HiddenChunks, Store
from sekd.store.schema import CANDIDATES, QUESTION
from stage2_student.batch import Candidates
from stage2_student.config import ValidationConfig
from stage2_student.order import Run


@dataclass(frozen=True)
class Single:
    """One step by itself, asked as its teacher was."""

    paradigm: str
    step: int


@dataclass(frozen=True)
class TeacherPath:
    """One image's path as the teacher answered it. What no loss asks for is None; bfloat16 states are their bits.

    ``single`` names the one step that the student is asked about, and ``candidates`` and ``hidden_SRD`` are then of
    that step alone; None asks for the whole path at once. ``given`` are the answers in the reply, where they are
    not the teacher's own.
    """

    image: str
    questions: tuple[Question, ...]
    answers: tuple[int, ...]
    candidates: Candidates | None
    hidden_SRD: np.ndarray | None
    single: Single | None = None
    given: tuple[int, ...] | None = None

    @property
    def steps(self) -> range:
        """The steps that are asked about."""
        return range(self.single.step, self.single.step + 1) if self.single else range(len(self.answers))

    def alone(self, single: Single) -> "TeacherPath":
        """The same image with one of its steps."""
        own = slice(single.step, single.step + 1)
        return replace(
            self,
            candidates=None if self.candidates is None else self.candidates[own],
            hidden_SRD=None if self.hidden_SRD is None else self.hidden_SRD[own],
            single=single,
        )


@dataclass(frozen=True)
class HeldOut:
    """Keeps every ``stride``-th example apart, for agreement on what was never trained on; 0 keeps none.

    It goes by the example's number in the dataset, so that all passes over one dataset hold out the same images,
    whatever each of them skipped.
    """

    stride: int

    @classmethod
    def of(cls, config: ValidationConfig, examples: int) -> "HeldOut":
        """The share of so many examples that the settings keep apart, or fewer where they bound the number."""
        if not config.held_out:
            return cls(0)
        return cls(max(round(1 / config.held_out), -(-examples // config.held_out_images)))

    def contains(self, numbers: np.ndarray) -> np.ndarray:
        """Which examples of these numbers are held out, as booleans of the same shape."""
        if not self.stride:
            return np.zeros(numbers.shape, bool)
        return numbers % self.stride == self.stride - 1


@dataclass(frozen=True)
class Fields:
    """What the losses with a weight ask for: candidates or not, and positions among the stored layers."""

    candidates: bool
    layers: tuple[int, ...]


@dataclass(frozen=True)
class SplitView:
    """Which examples of a stored pass are read: those trained on or those held out, as whole paths or step by step.

    Attributes:
        rehearsed: None for whole paths; else the share of the examples that are read, one step of each in turn.
        skipped: the numbers in the dataset of the examples that the pass has no rows of, for all its shards.
        prefixes: the pass whose answers the teacher was given, if not its own: those in the student's reply.
    """

    store: Store
    fields: Fields
    apart: HeldOut
    held_out: bool = False
    rehearsed: float | None = None
    skipped: frozenset[int] = frozenset()
    prefixes: Store | None = None

    def seen(self, path: TeacherPath, number: int) -> TeacherPath:
        """What the student sees of a shard's path of this number, counted over those that are read."""
        if self.rehearsed is not None:
            return path.alone(Single(self.store.paradigm, number % len(path.answers)))
        return path

    def places(self, shard: int) -> np.ndarray:
        """The examples of a shard, as positions among those that have rows."""
        entry = self.store.entry(shard)
        present = np.array([number for number in range(*entry.examples) if number not in self.skipped], int)
        assert len(present) == entry.examples[1] - entry.examples[0] - len(entry.skipped), "skipped fits the store"
        places = np.flatnonzero(self.apart.contains(present) == self.held_out)
        if self.rehearsed is None:
            return places
        return places[(np.arange(round(len(places) * self.rehearsed)) / self.rehearsed).astype(int)]

    def counts(self) -> tuple[int, ...]:
        """How many examples of every shard are read."""
        return tuple(len(self.places(shard)) for shard in range(self.store.plan.n_shards))


class Reader:
    """Examples by (shard, position); keeps ``open_shards`` shards' targets in memory and no more.

    Args:
        parts: what is read; the shards of all parts are numbered as one line.
    """

    def __init__(self, *parts: SplitView, open_shards: int) -> None:
        self._shards = [(part, shard) for part in parts for shard in range(part.store.plan.n_shards)]
        self._limit = open_shards
        self._open: OrderedDict[int, OpenShard] = OrderedDict()

    def read(self, runs: tuple[Run, ...]) -> Iterator[TeacherPath]:
        """The examples of the runs, in order. A chunk of hidden states is read once for each run that needs it."""
        for run in runs:
            yield from self._shard(run.shard).read(run.start, run.stop)

    def _shard(self, index: int) -> "OpenShard":
        if index not in self._open:
            self._open[index] = OpenShard(*self._shards[index])
            if len(self._open) > self._limit:
                self._open.popitem(last=False)
        self._open.move_to_end(index)
        return self._open[index]


class OpenShard:
    """One shard's targets, and its hidden states where a loss asks for them."""

    def __init__(self, part: SplitView, index: int) -> None:
        store, fields = part.store, part.fields
        rows = store.read_targets(index, QUESTION + (CANDIDATES if fields.candidates else ())).combine_chunks()
        self._task = rows.select(list(QUESTION)).to_pydict()
        self._candidates = _candidates(rows) if fields.candidates else None
        self._chunks: HiddenChunks | None = store.hidden_chunks(index) if fields.layers else None
        self._layers = _columns(fields.layers, len(store.layout.layers))
        self._given = None if part.prefixes is None else _answers(part.prefixes, index, like=rows)
        self._part = part
        self._places = part.places(index)
        # The first row of every example, and the end of the last one.
        self._starts = np.append(np.flatnonzero(np.asarray(rows.column("step")) == 0), len(rows)).tolist()

    def read(self, start: int, stop: int) -> Iterator[TeacherPath]:
        places = self._places[start:stop].tolist()
        first, end = self._starts[places[0]], self._starts[places[-1] + 1]
        hidden = None if self._chunks is None else self._hidden(self._chunks, first, end)
        for number, place in enumerate(places, start=start):
            own = slice(self._starts[place], self._starts[place + 1])
            hidden_SRD = None if hidden is None else hidden[own.start - first : own.stop - first]
            yield self._part.seen(self._path(own, hidden_SRD), number)

    def _hidden(self, chunks: HiddenChunks, first: int, end: int) -> np.ndarray:
        """Rows [first, end) of the layers asked for, as stored, [rows, R, D]."""
        size = chunks.chunk_rows
        read = [chunks.read(chunk)[:, self._layers] for chunk in range(first // size, -(-end // size))]
        offset = first // size * size
        return (np.concatenate(read) if len(read) > 1 else read[0])[first - offset : end - offset]

    def _path(self, own: slice, hidden_SRD: np.ndarray | None) -> TeacherPath:
        task = {name: values[own] for name, values in self._task.items()}
        return TeacherPath(
            image=task["image"][0],
            questions=tuple(
                Question(depth=depth, level=level, options=tuple(options), truth=None)
                for depth, level, options in zip(task["depth"], task["level"], task["options"], strict=True)
            ),
            answers=tuple(task["answer"]),
            given=None if self._given is None else tuple(self._given[own]),
            candidates=None if self._candidates is None else self._candidates[own],
            hidden_SRD=hidden_SRD,
        )


def _answers(store: Store, shard: int, *, like: pa.Table) -> list[int]:
    """The answers that another pass over the same shards gave to the steps of ``like``, [rows].

    The other pass may hold more images: some that it read may have been skipped when its answers were scored.

    Raises:
        SekdError: it lacks a step.
    """
    rows = store.read_targets(shard, ["image", "step", "answer"])
    answers = dict(zip(_steps(rows), rows.column("answer").to_pylist(), strict=True))
    wanted = _steps(like)
    if lacking := next((image for image, step in wanted if (image, step) not in answers), None):
        raise SekdError(
            f"{store.path}: shard {shard} has no answers about {lacking}, though the teacher was given them: "
            "run `make teacher` with teacher.prefixes again"
        )
    return [answers[step] for step in wanted]


def _steps(rows: pa.Table) -> list[tuple[str, int]]:
    return list(zip(rows.column("image").to_pylist(), rows.column("step").to_pylist(), strict=True))


def _columns(layers: tuple[int, ...], stored: int) -> slice | list[int]:
    """An index of the layers asked for that copies nothing where they are all the stored ones."""
    return slice(None) if layers == tuple(range(stored)) else list(layers)


def _candidates(rows: pa.Table) -> Candidates:
    """Those of all rows, copied out of the file's buffers."""
    ids, logprobs, tail = (rows.column(name).combine_chunks() for name in CANDIDATES)
    return Candidates(
        ids_NK=torch.tensor(np.asarray(ids.flatten()), dtype=torch.long).view(len(rows), -1),
        logprobs_NK=torch.tensor(np.asarray(logprobs.flatten())).view(len(rows), -1),
        tail_N=torch.tensor(np.asarray(tail)),
    )
