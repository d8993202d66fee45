"""Reads the teacher's answers back from the store, example by example, and only the columns that a loss asks for.

Knows nothing about prompts or tokens. The truth is never read: the column is not even asked for.

Shape legend: S steps of one example, K candidates, R layers, D hidden size.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sekd.questions import Question
from sekd.store import HiddenChunks, Store
from stage2_student.order import Run

TASK = ("image", "step", "depth", "level", "options", "answer")
CANDIDATES = ("topk_ids", "topk_logprobs", "tail_logprob")


@dataclass(frozen=True)
class Candidates:
    """The most likely tokens at each answer position, likeliest first, and the log of all other tokens' mass."""

    ids_SK: np.ndarray
    logprobs_SK: np.ndarray
    tail_S: np.ndarray

    def __getitem__(self, steps: slice) -> "Candidates":
        return Candidates(self.ids_SK[steps], self.logprobs_SK[steps], self.tail_S[steps])


@dataclass(frozen=True)
class TeacherPath:
    """One image's path as the teacher answered it. What no loss asks for is None; bfloat16 states are their bits."""

    image: str
    questions: tuple[Question, ...]
    answers: tuple[int, ...]
    candidates: Candidates | None
    hidden_SRD: np.ndarray | None


@dataclass(frozen=True)
class HeldOut:
    """Keeps every ``stride``-th example apart, for agreement on what was never trained on; 0 keeps none."""

    stride: int

    def of_shard(self, store: Store, shard: int, *, held_out: bool) -> np.ndarray:
        """Which examples of a shard (as positions among those that have rows) are held out, or are not."""
        entry = store.entry(shard)
        present = np.arange(entry.examples[1] - entry.examples[0] - len(entry.skipped))
        if not self.stride:
            return present[:0] if held_out else present
        apart = (entry.examples[0] + present) % self.stride == self.stride - 1
        return present[apart == held_out]

    def counts(self, store: Store, *, held_out: bool) -> tuple[int, ...]:
        """How many examples of every shard are held out, or are not."""
        return tuple(len(self.of_shard(store, shard, held_out=held_out)) for shard in range(store.plan.n_shards))


@dataclass(frozen=True)
class Wanted:
    """What the losses with a weight ask for: candidates or not, and positions among the stored layers."""

    candidates: bool
    layers: tuple[int, ...]


class Reader:
    """Examples by (shard, position); keeps ``open_shards`` shards' targets in memory and no more.

    Args:
        part: which examples count, and so have a position: those trained on, or those held out.
    """

    def __init__(self, store: Store, wanted: Wanted, *, apart: HeldOut, held_out: bool, open_shards: int) -> None:
        self._store = store
        self._wanted = wanted
        self._apart = apart
        self._held_out = held_out
        self._limit = open_shards
        self._open: OrderedDict[int, Shard] = OrderedDict()

    def read(self, runs: tuple[Run, ...]) -> Iterator[TeacherPath]:
        """The examples of the runs, in order. A chunk of hidden states is read once for each run that needs it."""
        for run in runs:
            yield from self._shard(run.shard).read(run.start, run.stop)

    def _shard(self, index: int) -> "Shard":
        if index not in self._open:
            places = self._apart.of_shard(self._store, index, held_out=self._held_out)
            self._open[index] = Shard(self._store, index, self._wanted, places)
            if len(self._open) > self._limit:
                self._open.popitem(last=False)
        self._open.move_to_end(index)
        return self._open[index]


class Shard:
    """One shard's targets, and its hidden states where they are wanted. ``places`` are the examples that count."""

    def __init__(self, store: Store, index: int, wanted: Wanted, places: np.ndarray) -> None:
        rows = store.read_targets(index, TASK + (CANDIDATES if wanted.candidates else ())).combine_chunks()
        self._task = rows.select(list(TASK)).to_pydict()
        self._candidates = Candidates(*(_values(rows, name) for name in CANDIDATES)) if wanted.candidates else None
        self._chunks: HiddenChunks | None = store.hidden_chunks(index) if wanted.layers else None
        self._layers = _columns(wanted.layers, len(store.layout.layers))
        self._places = places
        # The first row of every example, and the end of the last one.
        self._starts = np.append(np.flatnonzero(np.asarray(rows.column("step")) == 0), len(rows)).tolist()

    def read(self, start: int, stop: int) -> Iterator[TeacherPath]:
        places = self._places[start:stop].tolist()
        first, end = self._starts[places[0]], self._starts[places[-1] + 1]
        hidden = None if self._chunks is None else self._hidden(self._chunks, first, end)
        for place in places:
            own = slice(self._starts[place], self._starts[place + 1])
            hidden_SRD = None if hidden is None else hidden[own.start - first : own.stop - first]
            yield self._path(own, hidden_SRD)

    def _hidden(self, chunks: HiddenChunks, first: int, end: int) -> np.ndarray:
        """Rows [first, end) of the wanted layers as stored, [rows, R, D]."""
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
            candidates=None if self._candidates is None else self._candidates[own],
            hidden_SRD=hidden_SRD,
        )


def _columns(wanted: tuple[int, ...], stored: int) -> slice | list[int]:
    """An index of the wanted layers that copies nothing where they are all the stored ones."""
    return slice(None) if wanted == tuple(range(stored)) else list(wanted)


def _values(rows: pa.Table, name: str) -> np.ndarray:
    """A column of numbers [rows], or of fixed-size lists of them [rows, K]."""
    column = rows.column(name).combine_chunks()
    return np.asarray(column.flatten()).reshape(len(column), -1) if name != "tail_logprob" else np.asarray(column)
