"""Read the teacher's answers from the store, example by example, with only the columns that a loss needs.

Independent of prompts and tokens. The column with the truth is never read.

Shape legend: S steps of one example, K candidates, R layers, D hidden size.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pyarrow as pa
import torch

from sekd.errors import SekdError
from sekd.questions import Question
from sekd.store import HiddenChunks, Store
from sekd.store.schema import CANDIDATES, PATH_LOGPROB, QUESTION
from stage2_student.batch import Candidates
from stage2_student.config import ValidationConfig
from stage2_student.order import Run


@dataclass(frozen=True)
class Single:
    """One step alone, in its teacher's paradigm."""

    paradigm: str
    step: int


@dataclass(frozen=True)
class TeacherPath:
    """One image's path as the teacher answered it. Fields that no loss needs are None; bfloat16 states are their bits.

    ``single`` is the one step of a single question, and ``candidates`` and ``hidden_SRD`` are then of that step alone;
    None is the whole path. ``given`` are the answers in the reply, where they are not the teacher's own.
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
        return range(self.single.step, self.single.step + 1) if self.single else range(len(self.answers))


@dataclass(frozen=True)
class SplitView:
    """A view of a stored pass: its training or held-out examples, as whole paths or single steps.

    Attributes:
        candidates: whether a loss needs them.
        layers: positions among the stored layers, of those that a loss needs.
        stride: every ``stride``-th example is held out; 0 holds out none. Examples are numbered by the dataset, so that
            all its passes hold out the same images, whichever each skipped.
        min_path_probability: of a descent's paths, only those at least this probable are trained on.
        rehearsed: None for whole paths; else the share of the examples that are read, one step of each in turn.
        skipped: the dataset's numbers of the examples that the pass skipped.
        prefixes: the pass whose answers the teacher was given, if not its own: those in the student's reply.
    """

    store: Store
    candidates: bool = False
    layers: tuple[int, ...] = ()
    stride: int = 0
    held_out: bool = False
    min_path_probability: float = 0.0
    rehearsed: float | None = None
    skipped: frozenset[int] = frozenset()
    prefixes: Store | None = None

    def places(self, shard: int) -> np.ndarray:
        """The examples of a shard, as positions among those that have rows."""
        entry = self.store.entry(shard)
        present = np.arange(*entry.examples)
        if entry.skipped:
            present = present[[number not in self.skipped for number in present.tolist()]]
        assert len(present) == entry.examples[1] - entry.examples[0] - len(entry.skipped), "skipped fits the store"
        apart = present % self.stride == self.stride - 1 if self.stride else np.zeros(present.shape, bool)
        read = apart == self.held_out
        if self.min_path_probability and not self.held_out:
            read &= self._path_probabilities(shard) >= self.min_path_probability
        places = np.flatnonzero(read)
        if self.rehearsed is None:
            return places
        return places[(np.arange(round(len(places) * self.rehearsed)) / self.rehearsed).astype(int)]

    def _path_probabilities(self, shard: int) -> np.ndarray:
        """The probability of each whole path of a shard [examples with rows]."""
        rows = self.store.read_targets(shard, ["step", "n_steps", PATH_LOGPROB])
        last = np.asarray(rows["step"]) == np.asarray(rows["n_steps"]) - 1
        return np.exp(np.asarray(rows[PATH_LOGPROB])[last])

    def counts(self) -> tuple[int, ...]:
        return tuple(len(self.places(shard)) for shard in range(self.store.plan.n_shards))


def held_out_stride(config: ValidationConfig, examples: int) -> int:
    """``SplitView.stride`` for the configured share of ``examples``, at most the configured number."""
    if not config.held_out:
        return 0
    return max(round(1 / config.held_out), -(-examples // config.held_out_images))


class Reader:
    """Examples by (shard, position); keeps at most ``open_shards`` shards' targets in memory.

    The shards of all parts are numbered as one line.
    """

    def __init__(self, *parts: SplitView, open_shards: int) -> None:
        shards = [(part, shard) for part in parts for shard in range(part.store.plan.n_shards)]
        self._open = lru_cache(open_shards)(lambda index: OpenShard(*shards[index]))

    def read(self, runs: tuple[Run, ...]) -> Iterator[TeacherPath]:
        """The examples of the runs, in order. A chunk of hidden states is read once for each run that needs it."""
        for run in runs:
            yield from self._open(run.shard).read(run.start, run.stop)


class OpenShard:
    """One shard's targets, and its hidden states if a loss needs them."""

    def __init__(self, part: SplitView, index: int) -> None:
        store = part.store
        rows = store.read_targets(index, QUESTION + (CANDIDATES if part.candidates else ())).combine_chunks()
        self._task = rows.select(list(QUESTION)).to_pydict()
        self._candidates = _candidates(rows) if part.candidates else None
        self._chunks: HiddenChunks | None = store.hidden_chunks(index) if part.layers else None
        # A slice, which copies nothing, if all stored layers are needed.
        whole = part.layers == tuple(range(len(store.layout.layers)))
        self._layers = slice(None) if whole else list(part.layers)
        self._given = None if part.prefixes is None else _answers(part.prefixes, index, like=rows)
        self._part = part
        self._places = part.places(index)
        # The first row of every example, and the end of the last one.
        self._starts = np.append(np.flatnonzero(np.asarray(rows.column("step")) == 0), len(rows)).tolist()

    def read(self, start: int, stop: int) -> Iterator[TeacherPath]:
        """The view's examples [start, stop) of this shard; of rehearsed ones, one step each."""
        places = self._places[start:stop].tolist()
        first, end = self._starts[places[0]], self._starts[places[-1] + 1]
        hidden = None if self._chunks is None else self._hidden(self._chunks, first, end)
        for number, place in enumerate(places, start=start):
            rows, single = slice(self._starts[place], self._starts[place + 1]), None
            path = self._path(rows)
            if self._part.rehearsed is not None:
                single = Single(self._part.store.paradigm, number % len(path.answers))
                rows = slice(rows.start + single.step, rows.start + single.step + 1)
            yield replace(
                path,
                candidates=None if self._candidates is None else self._candidates[rows],
                hidden_SRD=None if hidden is None else hidden[rows.start - first : rows.stop - first],
                single=single,
            )

    def _hidden(self, chunks: HiddenChunks, first: int, end: int) -> np.ndarray:
        """Rows [first, end) of the needed layers, as stored, [rows, R, D]."""
        size = chunks.chunk_rows
        read = [chunks.read(chunk)[:, self._layers] for chunk in range(first // size, -(-end // size))]
        offset = first // size * size
        return (np.concatenate(read) if len(read) > 1 else read[0])[first - offset : end - offset]

    def _path(self, rows: slice) -> TeacherPath:
        task = {name: values[rows] for name, values in self._task.items()}
        return TeacherPath(
            image=task["image"][0],
            questions=tuple(
                Question(depth=depth, level=level, options=tuple(options), truth=None)
                for depth, level, options in zip(task["depth"], task["level"], task["options"], strict=True)
            ),
            answers=tuple(task["answer"]),
            given=None if self._given is None else tuple(self._given[rows]),
            candidates=None,
            hidden_SRD=None,
        )


def _answers(store: Store, shard: int, *, like: pa.Table) -> list[int]:
    """The answers that another pass over the same shards gave to the steps of ``like``, [rows].

    The other pass may have more images: those that were skipped when its answers were scored. Raises ``SekdError``
    where it lacks a step.
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


def _candidates(rows: pa.Table) -> Candidates:
    """Those of all rows, copied out of the file's buffers."""
    ids, logprobs, tail = (rows.column(name).combine_chunks() for name in CANDIDATES)
    return Candidates(
        ids_NK=torch.tensor(np.asarray(ids.flatten()), dtype=torch.long).view(len(rows), -1),
        logprobs_NK=torch.tensor(np.asarray(logprobs.flatten())).view(len(rows), -1),
        tail_N=torch.tensor(np.asarray(tail)),
    )
