"""What is timed, each in processes of its own that start once and then take turns.

An arm is asked for a round through a pipe and answers with the seconds it took. An arm of several processes splits the
images between them; the slowest counts.
"""

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sekd.datasets import DataConfig
from sekd.inference.config import EngineConfig
from sekd.models import ModelConfig


@dataclass(frozen=True)
class Job:
    """What all arms have in common."""

    data: DataConfig
    model: ModelConfig
    images: int
    layers: tuple[int, ...]
    topk: int


@dataclass(frozen=True)
class ArmSpec:
    """One way to make the targets.

    Attributes:
        kind: "pass", "joint" or "loop".
        processes: how many share the images, each on one thread; a "loop" is one process on ``threads``.
        batch: of a "loop".
        capture, prefix_caching: of a "pass".
    """

    kind: str
    processes: int = 1
    threads: int = 1
    batch: int = 1
    capture: bool = True
    prefix_caching: bool = True


class Arm:
    """A started arm; calling it runs one round and returns its seconds."""

    def __init__(self, job: Job, spec: ArmSpec) -> None:
        context = multiprocessing.get_context("spawn")
        self._members = []
        for index in range(spec.processes):
            here, there = context.Pipe()
            process = context.Process(target=_main, args=(there, job, spec, index), daemon=True)
            process.start()
            there.close()
            self._members.append((process, here))
        for _, pipe in self._members:
            assert pipe.recv() == "ready"

    def __call__(self) -> float:
        for _, pipe in self._members:
            pipe.send("go")
        return max(pipe.recv() for _, pipe in self._members)

    def close(self) -> None:
        """End the arm's processes."""
        for process, pipe in self._members:
            pipe.close()
            process.kill()  # an engine takes long to shut down, and nothing of it is kept
            process.join()


def _main(pipe: Connection, job: Job, spec: ArmSpec, index: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(spec.threads)
    run = {"pass": _pass, "joint": _joint, "loop": _loop}[spec.kind](job, spec, index)
    run()  # what fails, fails before any arm is timed
    pipe.send("ready")
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        run()  # while other arms had their turn, the system may have taken this one's memory back
        start = time.perf_counter()
        run()
        pipe.send(time.perf_counter() - start)


def _dataset(job: Job, spec: ArmSpec, index: int) -> Any:
    """The images of one process, every n-th."""
    from sekd.datasets import load_dataset

    dataset = load_dataset(job.data, "train")
    return replace(dataset, examples=dataset.examples[: job.images][index :: spec.processes])


def _engine(job: Job, spec: ArmSpec) -> tuple[Any, Any]:
    from sekd.inference.engine import Engine
    from sekd.inference.paradigms import Asker
    from sekd.models import load_processor
    from sekd.prompts import Prompter

    config = EngineConfig(kv_cache_gb=0.25, prefix_caching=spec.prefix_caching, threads=spec.threads, readers=1)
    capture = spec.kind == "pass" and spec.capture
    engine = Engine(job.model, config, layers=job.layers if capture else ())
    asker = Asker(
        Prompter.named(job.model.wording),
        load_processor(job.model),
        topk=job.topk if spec.kind == "pass" else 0,
        capture=capture,
        max_answer_tokens=16,
    )
    return engine, asker


def _pass(job: Job, spec: ArmSpec, index: int) -> Callable[[], None]:
    """The teacher pass as it is run: asked, assembled and written to a store."""
    from sekd.inference.dimensions import read_dimensions
    from sekd.store import Layout, Plan, Store
    from stage1_teacher.behind import Behind
    from stage1_teacher.shard import ask_shard
    from stage1_teacher.teaching import conditioned

    dataset = _dataset(job, spec, index)
    engine, asker = _engine(job, spec)
    sizes = read_dimensions(job.model)
    layout = Layout(
        k=job.topk,
        layers=engine.layers,
        hidden_size=sizes.hidden_size,
        hidden_dtype="float16",
        vocab_size=sizes.vocab_size,
        letter_ids=asker.letter_ids(4),
    )
    half = -(-len(dataset.examples) // 2)

    def run() -> None:
        folder = Path(tempfile.mkdtemp(prefix="sekd-bench-"))
        store = Store.create(folder, identity={}, plan=Plan(len(dataset.examples), half), layout=layout)
        with Behind() as behind:
            for number in range(store.plan.n_shards):
                shard = ask_shard(
                    engine,
                    asker,
                    dataset,
                    store.plan.examples(number),
                    teaching=conditioned,
                    layout=layout,
                    report=lambda tally: None,
                )
                behind.submit(partial(store.write_shard, number, shard.rows, shard.hidden, {}))
        shutil.rmtree(folder)

    return run


def _joint(job: Job, spec: ArmSpec, index: int) -> Callable[[], None]:
    """One generation an image."""
    from stage1_teacher.teaching import subject

    dataset = _dataset(job, spec, index)
    engine, asker = _engine(job, spec)

    def run() -> None:
        engine.reset()
        for _ in engine.drive(asker.joint(subject(dataset, place)) for place in range(len(dataset.examples))):
            pass

    return run


def _loop(job: Job, spec: ArmSpec, index: int) -> Callable[[], None]:
    """The plain loop over transformers."""
    import torch

    from benchmarks.loop import Loop

    torch.set_num_threads(spec.threads)
    dataset = _dataset(job, spec, index)
    loop = Loop(job.model, layers=job.layers, topk=job.topk, batch=spec.batch)

    def run() -> None:
        loop.run(dataset, dataset.examples)

    return run
