"""Run eval tasks on engines: one in this process, or several in processes that share a queue.

One engine serves the base and every adapter, so each worker starts one engine for all its tasks. On CPU an engine uses
one core; several engines scale better than more threads.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sekd.datasets.base import Example
from sekd.errors import Stopped
from sekd.evaluation.config import EvaluateConfig
from sekd.evaluation.eval_tasks import EvalTask
from sekd.evaluation.generate import Unreadable, ask, check_share
from sekd.evaluation.generations import Generation, add_refused, kept_keys, write_part
from sekd.inference.dimensions import adapter_rank
from sekd.inference.engine import Engine
from sekd.inference.pool import run_jobs
from sekd.inference.strategies import Strategies
from sekd.models import load_processor
from sekd.prompts import Prompter
from sekd.stop import Stop

MOST_ON_CPU = 4  # engines; each holds the model and a KV cache
Done = Callable[[str, int], None]  # (task's title, images answered)


def generate_all(config: EvaluateConfig, tasks: list[EvalTask], *, done: Done) -> list[Unreadable]:
    """Do every task; returns the unreadable images.

    Raises:
        SekdError: a worker's error.
        Stopped: a signal came; stored parts are kept.
    """
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
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores // config.engine.threads, MOST_ON_CPU, tasks))


class EvalWorker:
    """A worker of the pool. Its jobs are titles of tasks."""

    def __init__(self, config: EvaluateConfig, tasks: Sequence[EvalTask]) -> None:
        own = Path(config.model.adapter) if config.model.adapter else None
        rank = max((adapter_rank(task.adapter) for task in tasks), default=0)
        self._config, self._tasks = config, {task.title: task for task in tasks}
        self._engine = Engine(config.model, config.engine, adapter=own, max_lora_rank=rank)
        prompter = Prompter.named(config.model.wording)
        self._strategies = Strategies(prompter, load_processor(config.model), topk=config.topk)

    def work(self, jobs: Iterable[str], *, progress: Callable[[int], None], done: Callable[[Any], None]) -> None:
        """Do tasks. A lost worker's task continues after its stored parts."""
        for title in jobs:
            task, kept = self._tasks[title], kept_keys(self._tasks[title].folder)
            missing = [example for example in task.examples if task.keys[example.id] not in kept]
            progress(len(task.examples) - len(missing))
            unreadable: list[Unreadable] = []
            for start in range(0, len(missing), self._config.part_size):
                unreadable += self._generate(task, missing[start : start + self._config.part_size], progress)
                check_share([each.reason for each in unreadable], task.dataset, self._config.unreadable_share)
            done(unreadable)

    def _generate(
        self, task: EvalTask, examples: Sequence[Example], progress: Callable[[int], None]
    ) -> list[Unreadable]:
        """Generate and store one part; returns the unreadable images."""
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
        """Stop the engine."""
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
