"""The pass: plan what is missing, ask for it, publish it, say what came of it."""

import sys
import time
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from rich.console import Console

from sekd.datasets import Dataset, load_dataset
from sekd.descent import count_calls
from sekd.errors import Stopped
from sekd.evaluation.students import check_adapter
from sekd.inference.pool import run_jobs
from sekd.memory import engine_memory, read_size
from sekd.prompts import Prompter
from sekd.stop import Stop
from sekd.store import Store
from sekd.store.lock import hold
from stage1_teacher import identity, summary
from stage1_teacher.config import TeacherConfig, check
from stage1_teacher.progress import Progress, clock
from stage1_teacher.teacher_modes import USES_LABELS
from stage1_teacher.unreadable import Tolerance, look_at_images, named


@dataclass(frozen=True)
class Pass:
    """What is to be done: the dataset, its store, and the shards of this run's part that are missing."""

    config: TeacherConfig
    dataset: Dataset
    store: Store
    missing: list[int]

    @property
    def images(self) -> int:
        """Images that are still to be asked about."""
        return sum(len(self.store.plan.examples(index)) for index in self.missing)


def prepare(config: TeacherConfig) -> Pass:
    """Find or make the store that these settings name. Loads no weights and no engine."""
    check(config)
    if config.adapter:
        check_adapter(config.adapter, config.model)
    dataset = load_dataset(config.data, config.split)
    prompter = Prompter.named(config.model.wording)
    store = Store.create(
        _root(config),
        identity=identity.identity(config, dataset, prompter),
        plan=identity.plan(config, dataset),
        layout=identity.layout(config, prompter),
    )
    missing = [index for index in store.missing() if config.part.takes(index)]
    return Pass(config, dataset, store, missing)


def run(config: TeacherConfig) -> Store:
    """Make the pass complete, as far as this run's part goes.

    Raises:
        SekdError: whatever the user has to know.
        Stopped: on SIGINT or SIGTERM.
    """
    # File names and levels are text, whatever brackets and colons they hold.
    console = Console(stderr=True, markup=False, emoji=False)
    begun = time.monotonic()
    job = prepare(config)
    for note in job.dataset.notes:
        console.print(f"{config.data.name}: {note}", highlight=False)
    if not job.missing:
        console.print(f"{job.store.path}: complete, nothing to do", highlight=False)
        return job.store
    with hold(job.store.path, config.part), Stop() as stop:
        job = Pass(config, job.dataset, job.store, [i for i in job.store.missing() if config.part.takes(i)])
        _announce(job, console)
        _estimate_memory(job, console)
        tolerance = Tolerance.of(job.store, job.dataset, share=config.unreadable_share)
        try:
            _look_at_images(job, tolerance, stop, console)
            with Progress(tolerance, images=job.images, shown=config.progress) as progress:
                _ask(job, progress, stop)
        except Stopped as stopped:
            _say_goodbye(job, stopped)
            raise
    _finish(job, progress, console, seconds=time.monotonic() - begun)
    return job.store


def _ask(job: Pass, progress: Progress, stop: Stop) -> None:
    from stage1_teacher.worker import TeacherWorker

    run_jobs(
        job.missing,
        partial(TeacherWorker, job.config, job.store.path.resolve()),
        progress,
        engine=job.config.engine,
        workers=job.config.workers,
        stop=stop,
        unit="shard",
        cluster=job.config.cluster,
    )


def _look_at_images(job: Pass, tolerance: Tolerance, stop: Stop, console: Console) -> None:
    """Find images that do not decode before an engine is started."""
    places = chain.from_iterable(job.store.plan.examples(index) for index in job.missing)
    with stop.at_once():
        note = look_at_images(job.dataset, places, tolerance, progress=job.config.progress)
    if note:
        console.print(f"{job.config.data.name}: {note}", highlight=False)


def _root(config: TeacherConfig) -> Path:
    return Path(config.artifacts) / config.data.name


def _announce(job: Pass, console: Console) -> None:
    done = job.store.plan.n_shards - len(job.store.missing())
    part = f" of part {job.config.shard}" if job.config.shard else ""
    console.print(
        f"{job.store.path}: {len(job.missing)} shards{part} to ask ({job.images} images), {done} are there already",
        highlight=False,
    )
    if job.config.data.by_descent:
        data, tree = job.config.data, job.dataset.taxonomy
        calls = count_calls(tree, roots=job.dataset.roots, options=data.options, beam=data.beam)
        console.print(
            f"each image's path is found by descent in a tree of {len(tree.leaves)} leaves: about {calls.mean:.0f} "
            f"questions an image with beam {data.beam}, at most {calls.most}; then one a level",
            highlight=False,
        )
    if job.config.paradigm in USES_LABELS:
        console.print(
            f"paradigm={job.config.paradigm}: what is stored as answers are the labels, not what the model says. "
            "A control: a student of it is supervised, not self-taught",
            highlight=False,
        )


def _estimate_memory(job: Pass, console: Console) -> None:
    """Say what the engines need, and refuse what cannot fit. Of the nodes of a cluster nothing is known here."""
    engine, config = job.config.engine, job.config
    cuda = engine.device == "cuda"
    estimate = engine_memory(
        read_size(config.model),
        layers=job.store.layout.layers,
        cuda=cuda,
        max_model_len=engine.max_model_len,
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        kv_cache_gb=engine.kv_cache_gb,
        memory_share=engine.memory_share,
        image_cache_gb=engine.image_cache_gb,
        cards=engine.tensor_parallel_size,
        engines=1 if cuda else config.workers,
    )
    console.print(str(estimate), highlight=False)
    if config.cluster is None:
        smaller = "engine.tensor_parallel_size=2 or more" if cuda else "fewer workers, a smaller engine.kv_cache_gb"
        estimate.check(f"take {smaller}, a smaller engine.max_model_len, or a smaller model")


def _say_goodbye(job: Pass, stopped: Stopped) -> None:
    whole = job.store.plan.n_shards - len(job.store.missing())
    print(
        f"\nstopped by {stopped}: {whole} of {job.store.plan.n_shards} shards are whole, the one in hand was dropped; "
        "the same command goes on from here",
        file=sys.stderr,
    )


def _finish(job: Pass, progress: Progress, console: Console, *, seconds: float) -> None:
    stats = progress.stats
    console.print(
        f"{stats.images} images in {clock(seconds)}, {stats.images / max(progress.seconds, 1e-9):.1f} a second once "
        f"started; prefix hits {100 * stats.cached_tokens / max(stats.prompt_tokens, 1):.0f} %",
        highlight=False,
    )
    if stats.skipped:
        console.print(f"{stats.skipped} images were left out{named(stats.reasons, stats.skipped)}", highlight=False)
    if stats.outside:
        console.print(f"{stats.outside} images are outside the tree by data.stop, and left out", highlight=False)
    missing = job.store.missing()
    if missing:
        console.print(f"{job.store.path}: {len(missing)} shards are still missing", highlight=False)
        return
    summary.show(summary.summarise(job.store, job.dataset), console)
    console.print(f"{job.store.path}: complete", highlight=False)
