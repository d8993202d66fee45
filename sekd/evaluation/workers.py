"""Run eval tasks on engines: one in this process, or several in processes that share a queue.

One engine serves the base and every adapter, so each worker starts one engine for all its tasks. On CPU an engine uses
one core; several engines scale better than more threads.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sekd.answers import letter_places
from sekd.datasets.base import Dataset, Example
from sekd.errors import SekdError, Stopped
from sekd.evaluation.config import EvaluateConfig
from sekd.evaluation.generations import Cell, Generation, add_refused, kept_keys, write_part
from sekd.inference.engine import Engine
from sekd.inference.pool import run_jobs
from sekd.inference.requests import StepResult, UnreadableImageError, UnusableImageError
from sekd.inference.schedule import Conversation
from sekd.inference.strategies import Strategies, Subject
from sekd.machine import usual_engines
from sekd.models import adapter_rank, load_processor
from sekd.prompts import Prompter
from sekd.questions import LETTERS, Question
from sekd.stop import Stop

Done = Callable[[str, int], None]  # (task's title, images answered)


@dataclass(frozen=True)
class EvalTask:
    """A cell to complete: ``examples`` are those without a generation in its ``folder``, ``keys`` those of all by id.

    ``adapter`` is the model's; None is the base.
    """

    cell: Cell
    dataset: Dataset
    adapter: Path | None
    keys: Mapping[str, str]
    folder: Path
    examples: Sequence[Example]

    @property
    def title(self) -> str:
        return " ".join(part for part in (self.cell.tree, self.cell.model, self.cell.seed, self.cell.paradigm) if part)


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read or that the model refused, of which dataset, and why."""

    tree: str
    sample: str
    reason: str
    refused: bool = False


def generate_all(config: EvaluateConfig, tasks: list[EvalTask], *, done: Done) -> list[Unreadable]:
    """Do every task; returns the unreadable images. Raises ``Stopped`` at a signal; stored parts are kept."""
    count = worker_count(config, len(tasks))
    if count > 1:
        tasks = sorted(tasks, key=lambda task: -len(task.examples))
    found = _Found(done)
    with Stop() as stop:
        try:
            run_jobs(
                [task.title for task in tasks],
                partial(EvalWorker, config, tasks),
                found,
                engine=config.engine,
                workers=count,
                stop=stop,
                unit="cell",
            )
        except Stopped as stopped:
            print(f"\nstopped by {stopped}: what was kept stays, the same command goes on from here", file=sys.stderr)
            raise
    return found.unreadable


def worker_count(config: EvaluateConfig, tasks: int) -> int:
    """As configured; by default an engine a core on CPU, up to four, and one on GPU. Never more than tasks."""
    if config.workers is not None:
        return min(config.workers, tasks)
    if config.engine.device != "cpu":
        return 1
    return min(usual_engines(config.engine.threads), tasks)


class EvalWorker:
    """A worker of the pool. Its jobs are titles of tasks."""

    def __init__(self, config: EvaluateConfig, tasks: Sequence[EvalTask]) -> None:
        own = Path(config.model.adapter) if config.model.adapter else None
        rank = max((adapter_rank(task.adapter) for task in tasks), default=0)
        self._config, self._tasks = config, {task.title: task for task in tasks}
        self._engine = Engine(config.model, config.engine, adapter=own, max_lora_rank=rank)
        prompter = Prompter.named(config.model.wording)
        self._strategies = Strategies(prompter, load_processor(config.model), topk=config.topk)

    def work(
        self, jobs: Iterable[str], *, progress: Callable[[str, int], None], done: Callable[[str, Any], None]
    ) -> None:
        """Do tasks. A lost worker's task continues after its stored parts."""
        for title in jobs:
            task, kept = self._tasks[title], kept_keys(self._tasks[title].folder)
            missing = [example for example in task.examples if task.keys[example.id] not in kept]
            progress(title, len(task.examples) - len(missing))
            unreadable: list[Unreadable] = []
            for start in range(0, len(missing), self._config.part_size):
                unreadable += self._generate(
                    task, missing[start : start + self._config.part_size], partial(progress, title)
                )
                check_share([each.reason for each in unreadable], task.dataset, self._config.unreadable_share)
            done(title, unreadable)

    def _generate(
        self, task: EvalTask, examples: Sequence[Example], progress: Callable[[int], None]
    ) -> list[Unreadable]:
        unreadable: list[Unreadable] = []
        generations: list[Generation] = []
        since = time.perf_counter()
        conversations = (ask(self._strategies, task.cell.paradigm, task.dataset, example) for example in examples)
        for found in self._engine.drive(conversations, adapter=task.adapter):
            progress(1)
            (unreadable if isinstance(found, Unreadable) else generations).append(found)
        wall = (time.perf_counter() - since) / len(examples)
        if generations:
            kept = [replace(each, wall=wall, key=task.keys[each.sample]) for each in generations]
            write_part(task.folder, task.cell, kept)
        refused = {task.keys[each.sample]: each.reason for each in unreadable if each.refused}
        if refused:
            add_refused(task.folder, refused, room=self._engine.config.max_model_len)
        return unreadable

    def close(self) -> None:
        self._engine.close()


class _Found:
    """Listener of the pool. Images of a requeued task count once."""

    def __init__(self, done: Done) -> None:
        self.unreadable: list[Unreadable] = []
        self._done, self._counts = done, Counter[str]()

    def progress(self, job: str, news: int) -> None:
        self._counts[job] += news
        self._done(job, news)

    def done(self, job: str, result: list[Unreadable]) -> None:
        self.unreadable += result

    def requeued(self, job: str) -> None:
        self._done(job, -self._counts.pop(job, 0))


# --- one image's conversation ---


def ask(
    strategies: Strategies, strategy: str, dataset: Dataset, example: Example
) -> Conversation[Generation | Unreadable]:
    subject = Subject.of(dataset, example)
    try:
        answers = yield from strategies.ask(strategy, subject)
    except UnreadableImageError as error:
        return Unreadable(dataset.name, example.id, str(error), isinstance(error, UnusableImageError))
    questions, results = subject.questions, answers.results
    places: list[tuple[StepResult, int | None]] = [(result, 0) for result in results]
    texts = tuple("" if choice is None else LETTERS[choice] for choice in answers.chosen)
    if strategy == "joint":
        [result] = results
        letters = strategies.letter_ids(max(len(question.options) for question in questions))
        tokenizer = strategies.processor.tokenizer
        positions = letter_positions(result.text, result.token_ids, questions, letters, tokenizer)
        places, texts = [(result, position) for position in positions], (result.text,)
    return Generation(
        sample=example.id,
        image=str(example.image),
        questions=questions,
        texts=texts,
        letter_logprobs=tuple(
            () if position is None else strategies.letter_logprobs(question, result, position)
            for question, (result, position) in zip(questions, places, strict=True)
        ),
        prompt_tokens=tuple(result.prompt_tokens for result in results),
        cached_tokens=tuple(result.cached_tokens for result in results),
        new_tokens=tuple(len(result.token_ids) for result in results),
        latency=tuple(result.latency for result in results),
        wall=0.0,
    )


def letter_positions(
    text: str, token_ids: Sequence[int], questions: Sequence[Question], letters: Sequence[int], tokenizer: Any
) -> list[int | None]:
    """Index of the token of a joint reply that is each question's letter, as the parser reads the reply.

    A token counts if it ends with the letter that the parser found and is this letter's token in the wording's format
    (``letters``): elsewhere, as in "**B**", several tokens share its probability.
    """
    text = text.lstrip()  # the engine's text may begin with a space where the tokenizer's does not
    places = letter_places(text, questions)
    found: list[int | None] = [None] * len(questions)
    for position, token in enumerate(token_ids):
        if token not in letters:
            continue
        said = tokenizer.decode(token_ids[: position + 1], skip_special_tokens=True).lstrip()
        place = len(said) - 1
        if text.startswith(said) and said[place] == LETTERS[letters.index(token)] and place in places:
            found[places.index(place)] = position
    return found


def check_share(unreadable: Sequence[str], dataset: Dataset, share: float) -> None:
    """Check the number of unreadable images, given their faults.

    Raises:
        SekdError: they are more than the allowed share of the dataset.
    """
    if len(unreadable) > share * len(dataset.examples):
        raise SekdError(
            f"{len(unreadable)} of {len(dataset.examples)} images of {dataset.name} cannot be read, like "
            f"{unreadable[0]}; repair them, or accept more with unreadable_share (now {share})"
        )
