"""Engines at work on eval tasks: one in this process, or several in processes of their own that share a queue.

One engine serves the base and every adapter, so each worker starts once, however many tasks it takes. On CPU an engine
uses one core; several engines scale better than more threads.
"""

import multiprocessing
import os
import queue
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sekd.errors import SekdError
from sekd.evaluation.config import EvaluateConfig
from sekd.evaluation.eval_tasks import EvalTask
from sekd.evaluation.generate import Unreadable, generate
from sekd.inference.adapters import adapter_rank
from sekd.inference.cards import cards_of_workers
from sekd.inference.engine import Engine
from sekd.inference.strategies import Strategies
from sekd.models import load_processor
from sekd.prompts import Prompter

MOST_ON_CPU = 4  # engines; each holds the model and a KV cache
PATIENCE = 30  # seconds for an engine that has done its work to shut down
Done = Callable[[str, int], None]  # (task's title, images answered)


def generate_all(config: EvaluateConfig, tasks: list[EvalTask], *, done: Done) -> list[Unreadable]:
    """Do every task; the images that could not be read.

    Raises:
        SekdError: what stopped a worker, in its own words.
    """
    count = worker_count(config, len(tasks))
    if count > 1:
        return _generate_together(config, tasks, count=count, done=done)
    with _open_engine(config, tasks) as engine:
        strategies = _strategies(config)
        return [image for task in tasks for image in _do(config, task, engine, strategies, done)]


def worker_count(config: EvaluateConfig, tasks: int) -> int:
    """As configured; by default an engine a core on CPU, up to four, and one on GPU. Never more than tasks."""
    if config.workers is not None:
        return min(config.workers, tasks)
    if config.engine.device != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores // config.engine.threads, MOST_ON_CPU, tasks))


def _open_engine(config: EvaluateConfig, tasks: list[EvalTask]) -> Engine:
    own = Path(config.model.adapter) if config.model.adapter else None
    adapters = {task.adapter for task in tasks if task.adapter} | ({own} if own else set())
    rank = max((adapter_rank(adapter) for adapter in adapters), default=0)
    return Engine(config.model, config.engine, adapter=own, max_lora_rank=rank)


def _strategies(config: EvaluateConfig) -> Strategies:
    return Strategies(Prompter.named(config.model.wording), load_processor(config.model), topk=config.topk)


def _do(config: EvaluateConfig, task: EvalTask, engine: Engine, strategies: Strategies, done: Done) -> list[Unreadable]:
    return generate(
        task,
        engine=engine,
        strategies=strategies,
        part_size=config.part_size,
        unreadable_share=config.unreadable_share,
        done=lambda count: done(task.title, count),
    )


def _generate_together(config: EvaluateConfig, tasks: list[EvalTask], *, count: int, done: Done) -> list[Unreadable]:
    context = multiprocessing.get_context("spawn")
    waiting, told = context.Queue(), context.Queue()
    for index in sorted(range(len(tasks)), key=lambda index: -len(tasks[index].examples)):
        waiting.put(index)
    arguments = (config, tasks, waiting, told)
    processes: list[BaseProcess] = [
        context.Process(target=_work, args=(cards, *arguments), name=f"engine-{slot}", daemon=True)
        for slot, cards in enumerate(cards_of_workers(config.engine, count))
    ]
    for process in processes:
        waiting.put(None)
        process.start()
    try:
        unreadable = _listen(processes, told, done)
        for process in processes:
            process.join(PATIENCE)
        return unreadable
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _listen(processes: list[BaseProcess], told: Any, done: Done) -> list[Unreadable]:
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
        if kind == "done":
            done(*content)
        elif kind == "unreadable":
            unreadable += content
        elif kind == "failed":
            raise SekdError(content)
        ended += kind == "ended"
    return unreadable


def _work(cards: str | None, config: EvaluateConfig, tasks: list[EvalTask], waiting: Any, told: Any) -> None:
    """A worker process: an engine and its share of the tasks."""
    if cards is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = cards
    try:
        with _open_engine(config, tasks) as engine:
            strategies = _strategies(config)
            while (index := waiting.get()) is not None:
                unreadable = _do(config, tasks[index], engine, strategies, lambda *news: told.put(("done", news)))
                told.put(("unreadable", unreadable))
    except SekdError as error:
        told.put(("failed", str(error)))
    except Exception as error:  # whatever the engine raises must reach the parent, or it would wait
        traceback.print_exc()
        told.put(("failed", f"an engine stopped: {error}; what was asked so far is kept"))
    else:
        told.put(("ended", None))
