"""One engine at work on a pass: asks shard after shard, and writes each while it asks the next."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from sekd.datasets import load_dataset
from sekd.inference.engine import Engine
from sekd.inference.strategies import Strategies
from sekd.models import load_processor
from sekd.prompts import Prompter
from sekd.provenance import collect
from sekd.store import Store
from stage1_teacher.config import TeacherConfig
from stage1_teacher.identity import check_questioning
from stage1_teacher.shard import Report, Shard, ask_shard
from stage1_teacher.teacher_modes import teacher_mode


class TeacherWorker:
    """A worker of the pool, whose jobs are shards. Its engine takes seconds to start on CPU, a minute or two on GPU.

    Args:
        config: the pass.
        path: its store.
    """

    def __init__(self, config: TeacherConfig, path: Path) -> None:
        self._config = config
        self._store = Store.open(path)
        self._dataset = load_dataset(config.data, config.split)
        prompter = Prompter.named(config.model.wording)
        check_questioning(self._store, config, self._dataset, prompter)
        self._mode = teacher_mode(config.paradigm, self._dataset, config.teacher.prefixes)
        layers = tuple(self._store.layout.layers)
        self._engine = Engine(
            config.taught_by,
            config.engine,
            layers=layers,
            adapter=config.adapter,
        )
        processor = load_processor(config.taught_by)
        self._strategies = Strategies(prompter, processor, topk=config.topk, capture=bool(layers))

    def work(self, jobs: Iterable[int], *, progress: Report, done: Callable[[Any], None]) -> None:
        """Ask and write shards as they are handed in; one is done when it is safe on disk."""
        with AsyncWriter() as writer:
            for index in jobs:
                start = time.perf_counter()
                shard = self._ask(index, progress)
                writer.submit(partial(self._write, index, shard, time.perf_counter() - start, done))

    def _ask(self, index: int, progress: Report) -> Shard:
        return ask_shard(
            self._engine,
            self._strategies,
            self._dataset,
            self._store.plan.examples(index),
            mode=self._mode,
            layout=self._store.layout,
            report=progress,
        )

    def _write(self, index: int, shard: Shard, seconds: float, done: Callable[[Any], None]) -> None:
        provenance = collect(settings=asdict(self._config), device=self._engine.device_name)
        self._store.write_shard(
            index,
            shard.rows,
            shard.hidden,
            {**provenance, "seconds": round(seconds, 3)},
            skipped=shard.skipped,
        )
        done(None)

    def close(self) -> None:
        """Stop the engine."""
        self._engine.close()


class AsyncWriter:
    """Runs jobs in order in a thread, and loses no error. At most one waits while one runs: memory holds two shards."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._jobs: list[Future] = []

    def submit(self, job: Callable[[], None]) -> None:
        """Queue a job; raises what an earlier one raised."""
        self._wait(keep=1)
        self._jobs.append(self._pool.submit(job))

    def _wait(self, *, keep: int) -> None:
        while len(self._jobs) > keep:
            self._jobs.pop(0).result()

    def __enter__(self) -> "AsyncWriter":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Finish what was queued: a shard that is complete is written even when the run stops."""
        try:
            self._wait(keep=0)
        except Exception:
            if kind is None:
                raise
        finally:
            self._pool.shutdown()
