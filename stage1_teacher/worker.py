"""A worker with one engine: generates shards, and writes each while it generates the next."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sekd.datasets import Dataset, Example, load_dataset
from sekd.errors import SekdError
from sekd.inference.engine import Engine
from sekd.inference.pool import Jobs
from sekd.inference.requests import UnreadableImageError
from sekd.inference.schedule import Conversation
from sekd.inference.strategies import Answers, Strategies, Subject
from sekd.models import load_processor
from sekd.prompts import Prompter
from sekd.provenance import collect
from sekd.store import Layout, Store, as_float32, build_rows
from sekd.store.schema import PATH_LOGPROB
from stage1_teacher.config import TeacherConfig
from stage1_teacher.generate import questioning
from stage1_teacher.progress import Stats
from stage1_teacher.teacher_modes import OUTSIDE, TeacherMode, subject, teacher_mode

Report = Callable[[int, Stats], None]
Done = Callable[[int, None], None]
Answered = tuple[Subject, Answers] | str  # an image's questions and answers, or the reason why there are none


class TeacherWorker:
    """A worker of the pool, whose jobs are shards. Its engine starts in seconds on CPU, in a minute or two on GPU.

    Raises ``SekdError`` if the questions or their wording are not those of the store: this node may have other files
    than the planner's. ``dataset`` is the planner's, whose examples all workers share; read here if None.
    """

    def __init__(self, config: TeacherConfig, path: Path, dataset: Dataset | None = None) -> None:
        self._config, self._store = config, Store.open(path)
        self._dataset = dataset or load_dataset(config.data, config.split)
        prompter = Prompter.named(config.model.wording)
        for name, part in questioning(config, self._dataset, prompter).items():
            if self._store.identity[name] != part:
                raise SekdError(f"{path}: the {name} changed since this pass was planned; start it again")
        self._mode = teacher_mode(config.paradigm, self._dataset, config.teacher.prefixes)
        layers, model = tuple(self._store.layout.layers), config.taught_by
        self._engine = Engine(model, config.engine, layers=layers, adapter=config.adapter)
        self._strategies = Strategies(prompter, load_processor(model), topk=config.topk, capture=bool(layers))

    def work(self, jobs: Jobs, *, progress: Report, done: Done) -> None:
        """Generate and write shards from the queue; a shard is done when it is synced to disk."""
        with closing(self._ask(jobs, progress, done)) as written:
            write_behind(written)

    def _ask(self, jobs: Jobs, progress: Report, done: Done) -> Generator[Callable[[], None]]:
        """Generate shards; yields the jobs that write them."""
        for first in jobs:
            asked = ask_shards(
                self._engine,
                self._strategies,
                self._dataset,
                self._store.plan.examples,
                first,
                more=jobs.ready,
                mode=self._mode,
                layout=self._store.layout,
                report=progress,
            )
            with closing(asked):
                for index, shard, seconds in asked:
                    yield partial(self._write, index, shard, seconds, done)

    def _write(self, index: int, shard: "Shard", seconds: float, done: Done) -> None:
        provenance = collect(settings=asdict(self._config), device=self._engine.device_name)
        provenance["seconds"] = round(seconds, 3)
        self._store.write_shard(index, shard.rows, shard.hidden, provenance, skipped=shard.skipped)
        done(index, None)

    def close(self) -> None:
        self._engine.close()


def write_behind(jobs: Iterable[Callable[[], None]]) -> None:
    """Run jobs in order in a thread while the next one is made, and raise their errors.

    At most one waits while one runs, so memory holds two shards. Queued jobs are finished even when the run stops.
    """
    writing: deque[Future] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="writer") as pool:
        for job in jobs:
            while len(writing) > 1:
                writing.popleft().result()
            writing.append(pool.submit(job))
        for each in writing:
            each.result()


@dataclass(frozen=True)
class Shard:
    """The arguments of ``Store.write_shard``: rows, hidden states [rows, layers, hidden] or None, skipped examples."""

    rows: pa.Table
    hidden: np.ndarray | None
    skipped: dict[str, str]


def ask_shards(
    engine: Engine,
    strategies: Strategies,
    dataset: Dataset,
    places: Callable[[int], range],
    first: int,
    *,
    more: Callable[[], int | None],
    mode: TeacherMode,
    layout: Layout,
    report: Report,
) -> Generator[tuple[int, Shard, float]]:
    """Generate the answers of shard ``first`` and of those that ``more`` gives: index, answers and seconds of each.

    ``more`` is called when the last image of a shard has entered the engine. The images of the shard that it gives
    enter while others end, so the engine stays full. On CPU a shard's bytes do not depend on the others; on GPU the
    last bits depend on the batch anyway. ``places`` are a shard's examples in the dataset. A shard's seconds are those
    since the one before ended.
    """
    engine.reset()
    asked: dict[int, dict[int, Answered]] = {}
    begun: dict[int, float] = {}
    ended = 0.0

    def conversations() -> Iterator[Conversation[tuple[int, int, Answered]] | None]:
        index: int | None = first
        while True:
            if index is None:
                yield None
            else:
                asked[index], begun[index] = {}, time.perf_counter()
                for place in places(index):
                    yield _conversation(index, place, strategies, dataset, mode)
            index = more()

    with closing(engine.drive(conversations())) as finished:
        for index, place, answers in finished:
            asked[index][place] = answers
            report(index, _stats(answers, dataset.examples[place].image.name))
            if len(asked[index]) == len(places(index)):
                answered = asked.pop(index)
                start, ended = max(begun.pop(index), ended), time.perf_counter()
                shard = _assemble([(dataset.examples[place], answered[place]) for place in places(index)], layout)
                yield index, shard, ended - start
    assert not asked, f"the engine ended before shards {list(asked)} did"


def _conversation(
    index: int, place: int, strategies: Strategies, dataset: Dataset, mode: TeacherMode
) -> Conversation[tuple[int, int, Answered]]:
    """The conversation about one image, which may be unreadable or outside the tree."""
    try:
        about = yield from subject(strategies, dataset, place)
        return index, place, (about, (yield from mode(strategies, dataset, place, about)))
    except UnreadableImageError as error:
        return index, place, error.reason


def _stats(answered: Answered, image: str) -> Stats:
    if isinstance(answered, str):
        if answered.startswith(OUTSIDE):
            return Stats(images=1, outside=1)
        return Stats(images=1, skipped=1, reasons=(f"{image} ({answered})",))
    results = answered[1].results
    return Stats(
        images=1,
        steps=len(results),
        prompt_tokens=sum(result.prompt_tokens for result in results),
        cached_tokens=sum(result.cached_tokens for result in results),
        letter_mass=sum(result.letter_mass for result in results),
    )


def _assemble(asked: Sequence[tuple[Example, Answered]], layout: Layout) -> Shard:
    """Rows in order of example, then step. The truth goes into its own column only."""
    rows: list[dict[str, Any]] = []
    hidden: list[np.ndarray] = []
    skipped: dict[str, str] = {}
    for example, answered in asked:
        if isinstance(answered, str):
            skipped[example.id] = answered
            continue
        about, answers = answered
        rows += _rows(example, about, answers)
        hidden += [result.hidden for result in answers.results if result.hidden is not None]
    columns = {name: [row[name] for row in rows] for name in layout.columns}
    return Shard(build_rows(layout, columns), _stack(hidden, layout), skipped)


def _rows(example: Example, about: Subject, answers: Answers) -> Iterator[dict[str, Any]]:
    questions = about.questions
    for step, (question, answer, result) in enumerate(zip(questions, answers.chosen, answers.results, strict=True)):
        yield {
            "sample": example.id,
            "image": example.image.as_posix(),
            "step": step,
            "n_steps": len(questions),
            "depth": question.depth,
            "level": question.level,
            "options": list(question.options),
            "answer": answer,
            "truth": -1 if question.truth is None else question.truth,
            "topk_ids": result.topk_ids,
            "topk_logprobs": result.topk_logprobs,
            "tail_logprob": result.tail_logprob,
            **({PATH_LOGPROB: about.path_logprobs[step]} if about.path_logprobs else {}),
        }


def _stack(hidden: list[np.ndarray], layout: Layout) -> np.ndarray | None:
    if not layout.layers:
        return None
    if not hidden:
        return np.empty((0, len(layout.layers), layout.hidden_size), np.float32)
    computed = {"uint16": "bfloat16"}.get(hidden[0].dtype.name, hidden[0].dtype.name)
    stacked = np.stack(hidden)
    return stacked if computed == layout.hidden_dtype else as_float32(stacked, computed)
