"""Engines at work on cells: one in this process, or several in processes of their own that share a queue of cells.

One engine serves the base and every adapter, so each worker starts once, however many cells it takes. On CPU an engine
uses one core; several engines scale better than more threads.
"""

import multiprocessing
import os
import queue
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sekd.datasets.base import Example
from sekd.errors import SekdError
from sekd.evaluation.asking import Examiner, Unreadable
from sekd.evaluation.cells import Planned, fill
from sekd.evaluation.config import EvaluateConfig
from sekd.inference.adapters import adapter_rank
from sekd.inference.cards import cards_of_workers
from sekd.inference.engine import Engine
from sekd.models import load_processor
from sekd.prompts import Prompter

MOST_ON_CPU = 4  # engines; each holds the model and a KV cache
PATIENCE = 30  # seconds for an engine that has done its work to shut down
Asked = Callable[[str, int], None]  # (cell's title, images answered)


@dataclass(frozen=True)
class Job:
    """A cell's examples that are still to be asked, and the folder that keeps the generations."""

    planned: Planned
    folder: Path
    examples: list[Example]

    @property
    def title(self) -> str:
        cell = self.planned.cell
        return " ".join(part for part in (cell.tree, cell.model, cell.seed, cell.paradigm) if part)


def ask_all(config: EvaluateConfig, jobs: list[Job], *, asked: Asked) -> list[Unreadable]:
    """Do every job; the images that could not be read.

    Raises:
        SekdError: what stopped a worker, in its own words.
    """
    count = worker_count(config, len(jobs))
    if count > 1:
        return _ask_together(config, jobs, count=count, asked=asked)
    with _open_engine(config, jobs) as engine:
        examiner = _examiner(config)
        return [image for job in jobs for image in _do(config, job, engine, examiner, asked)]


def worker_count(config: EvaluateConfig, jobs: int) -> int:
    """As configured; by default an engine a core on CPU, up to four, and one on GPU. Never more than jobs."""
    if config.workers is not None:
        return min(config.workers, jobs)
    if config.engine.device != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores // config.engine.threads, MOST_ON_CPU, jobs))


def _open_engine(config: EvaluateConfig, jobs: list[Job]) -> Engine:
    own = Path(config.model.adapter) if config.model.adapter else None
    adapters = {job.planned.adapter for job in jobs if job.planned.adapter} | ({own} if own else set())
    rank = max((adapter_rank(adapter) for adapter in adapters), default=0)
    return Engine(config.model, config.engine, adapter=own, max_lora_rank=rank)


def _examiner(config: EvaluateConfig) -> Examiner:
    prompter, processor = Prompter.named(config.model.wording), load_processor(config.model)
    return Examiner(prompter, processor, topk=config.topk)


def _do(config: EvaluateConfig, job: Job, engine: Engine, examiner: Examiner, asked: Asked) -> list[Unreadable]:
    return fill(
        job.planned,
        job.folder,
        job.examples,
        engine=engine,
        examiner=examiner,
        part_size=config.part_size,
        unreadable_share=config.unreadable_share,
        done=lambda count: asked(job.title, count),
    )


def _ask_together(config: EvaluateConfig, jobs: list[Job], *, count: int, asked: Asked) -> list[Unreadable]:
    context = multiprocessing.get_context("spawn")
    waiting, told = context.Queue(), context.Queue()
    for index in sorted(range(len(jobs)), key=lambda index: -len(jobs[index].examples)):
        waiting.put(index)
    arguments = (config, jobs, waiting, told)
    processes: list[BaseProcess] = [
        context.Process(target=_work, args=(cards, *arguments), name=f"engine-{slot}", daemon=True)
        for slot, cards in enumerate(cards_of_workers(config.engine, count))
    ]
    for process in processes:
        waiting.put(None)
        process.start()
    try:
        unreadable = _listen(processes, told, asked)
        for process in processes:
            process.join(PATIENCE)
        return unreadable
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _listen(processes: list[BaseProcess], told: Any, asked: Asked) -> list[Unreadable]:
    unreadable: list[Unreadable] = []
    ended = 0
    while ended < len(processes):
        try:
            kind, content = told.get(timeout=1)
        except queue.Empty:
            dead = [process for process in processes if process.exitcode not in (None, 0)]
            if dead:
                raise SekdError(
                    f"{dead[0].name} died (exit status {dead[0].exitcode}); what was asked is kept, run the same "
                    "command again, with workers=1 to see its own message"
                ) from None
            continue
        if kind == "asked":
            asked(*content)
        elif kind == "unreadable":
            unreadable += content
        elif kind == "failed":
            raise SekdError(content)
        ended += kind == "ended"
    return unreadable


def _work(cards: str | None, config: EvaluateConfig, jobs: list[Job], waiting: Any, told: Any) -> None:
    """A worker process: an engine and its share of the jobs."""
    if cards is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = cards
    try:
        with _open_engine(config, jobs) as engine:
            examiner = _examiner(config)
            while (index := waiting.get()) is not None:
                unreadable = _do(config, jobs[index], engine, examiner, lambda *news: told.put(("asked", news)))
                told.put(("unreadable", unreadable))
    except SekdError as error:
        told.put(("failed", str(error)))
    except Exception as error:  # whatever the engine raises must reach the parent, or it would wait
        traceback.print_exc()
        told.put(("failed", f"an engine stopped: {error}; what was asked so far is kept"))
    else:
        told.put(("ended", None))
