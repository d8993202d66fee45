"""The teacher's pass: plan the missing shards, generate and publish them, print a summary."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from tqdm import tqdm

from sekd.datasets import Dataset, load_dataset
from sekd.descent import count_calls
from sekd.errors import SekdError, Stopped
from sekd.evaluation.students import check_adapter
from sekd.files import remove
from sekd.inference.config import EngineConfig
from sekd.inference.pool import run_jobs
from sekd.machine import require_vllm
from sekd.memory import BYTES, GIB, RESERVED_GIB, Estimate, ModelSize, device_bytes, read_size
from sekd.models import load_processor, model_identity
from sekd.prompts import Prompter
from sekd.questions import LETTERS
from sekd.stop import Stop
from sekd.store import Layout, Plan, Store
from sekd.store.lock import ShardPart, hold
from sekd.store.manifest import shard_name, temporary_name
from stage1_teacher.config import TeacherConfig, check
from stage1_teacher.look import looking
from stage1_teacher.progress import DELETED, Progress, Tolerance, named
from stage1_teacher.summary import show_summary
from stage1_teacher.teacher_modes import USES_LABELS, StoredAnswers


@dataclass(frozen=True)
class Pass:
    """The dataset, its store, and the part of its shards that this run takes."""

    config: TeacherConfig
    dataset: Dataset
    store: Store
    part: ShardPart

    @property
    def missing(self) -> list[int]:
        return [index for index in self.store.missing() if self.part.takes(index)]

    @property
    def images(self) -> int:
        """How many examples have no stored answers."""
        return sum(len(self.store.plan.examples(index)) for index in self.missing)


def prepare(config: TeacherConfig) -> Pass:
    """Find or make the store that these settings name. Loads no weights and no engine."""
    check(config)
    if config.adapter:
        check_adapter(config.adapter, config.model)
    dataset = load_dataset(config.data, config.split)
    prompter = Prompter.named(config.model.wording)
    prefixes = Store.open(Path(config.teacher.prefixes)) if config.teacher.prefixes else None
    store = Store.create(
        Path(config.artifacts) / config.data.name,
        identity={"model": model_identity(config.taught_by), **questioning(config, dataset, prompter)},
        plan=prefixes.plan if prefixes else Plan(n_examples=len(dataset.examples), shard_size=config.shard_size),
        layout=layout(config, prompter),
    )
    return Pass(config, dataset, store, config.part)


def questioning(config: TeacherConfig, dataset: Dataset, prompter: Prompter) -> dict[str, Any]:
    """What the answers depend on beside the model and the layout: the data, the wording and the mode."""
    special: dict[str, Any] = {"uses_labels": True} if config.paradigm in USES_LABELS else {}
    if config.teacher.prefixes:
        special["prefixes"] = StoredAnswers(Path(config.teacher.prefixes), dataset).store.fingerprint
    return {"prompts": prompter.identity(), "data": dataset.identity(), "paradigm": config.paradigm, **special}


def layout(config: TeacherConfig, prompter: Prompter) -> Layout:
    """What is stored at every answer position.

    Raises:
        SekdError: layers that the model does not have, or a letter that is not one token.
    """
    size, asked = read_size(config.taught_by, count=False), config.layers
    layers = sorted({layer if layer >= 0 else size.layers + 1 + layer for layer in asked})
    if any(not 0 <= layer <= size.layers for layer in layers):
        raise SekdError(
            f"layers={asked}: model {config.model.name} has decoder layers 1 to {size.layers} "
            f"(-1 is the last; 0 is its embeddings)"
        )
    tokenizer = load_processor(config.taught_by).tokenizer
    return Layout(
        k=config.topk,
        layers=tuple(layers),
        hidden_size=size.hidden,
        hidden_dtype=config.hidden_dtype or size.dtype,
        vocab_size=size.vocab,
        letter_ids=prompter.letter_ids(tokenizer, min(config.data.options, len(LETTERS))),
        path_logprob=config.data.by_descent,
    )


def run(config: TeacherConfig) -> Store:
    """Complete this run's part of the pass; raises ``Stopped`` on SIGINT or SIGTERM."""
    # File names and levels are plain text, also with brackets and colons.
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    begun = time.monotonic()
    job = prepare(config)
    store = job.store
    for note in job.dataset.notes:
        console.print(f"{config.data.name}: {note}")
    if not job.missing:
        console.print(f"{store.path}: complete, nothing to do")
        return store
    require_vllm()
    with hold(store.path, job.part), Stop() as stop:
        _announce(job, console)
        _estimate_memory(job, console)
        tolerance = Tolerance.of(store, job.dataset, share=config.unreadable_share, part=job.part)
        columns = temporary_name(store.path.resolve() / "tmp", shard_name(job.part.index))
        dataset = job.dataset.shared(columns)
        try:
            with (
                looking(store, dataset, job.missing, tolerance, job.part, shown=config.progress, stop=stop),
                Progress(tolerance, images=job.images, shown=config.progress) as progress,
            ):
                from stage1_teacher.worker import TeacherWorker

                run_jobs(
                    job.missing,
                    partial(TeacherWorker, config, store.path.resolve(), dataset),
                    progress,
                    engine=config.engine,
                    workers=config.workers,
                    stop=stop,
                    unit="shard",
                    cluster=config.cluster,
                )
        except Stopped as stopped:
            whole = store.plan.n_shards - len(store.missing())
            print(
                f"\nstopped by {stopped}: {whole} of {store.plan.n_shards} shards are whole, those in hand "
                "were dropped; the same command goes on from here",
                file=sys.stderr,
            )
            raise
        finally:
            remove(columns)
    _finish(job, progress, console, seconds=time.monotonic() - begun)
    return store


def _announce(job: Pass, console: Console) -> None:
    done = job.store.plan.n_shards - len(job.store.missing())
    part = f" of part {job.config.shard}" if job.config.shard else ""
    console.print(
        f"{job.store.path}: {len(job.missing)} shards{part} to ask ({job.images} images), {done} are there already"
    )
    if job.config.data.by_descent:
        data, tree = job.config.data, job.dataset.taxonomy
        calls = count_calls(tree, roots=job.dataset.roots, options=data.options, beam=data.beam)
        console.print(
            f"each image's path is found by descent in a tree of {len(tree.leaves)} leaves: about {calls.mean:.0f} "
            f"questions an image with beam {data.beam}, at most {calls.most}; then one a level"
        )
    if job.config.paradigm in USES_LABELS:
        console.print(
            f"paradigm={job.config.paradigm}: what is stored as answers are the labels, not what the model says. "
            "A control: a student of it is supervised, not self-taught"
        )


def engine_memory(size: ModelSize, engine: EngineConfig, *, layers: Sequence[int], engines: int) -> Estimate:
    """What vLLM needs on one card, or on the machine for all its engines on CPU.

    The KV cache must hold at least one path of ``max_model_len`` tokens; where its size is not set it takes the memory
    that is left. Captured layers add a hidden state a token to it.
    """
    cuda, cards, width = engine.device == "cuda", engine.tensor_parallel_size, BYTES[size.dtype]
    token = width * (2 * size.layers * size.key + len(layers) * size.hidden) / cards
    step = engine.max_num_batched_tokens * (4 * size.hidden + 3 * size.intermediate / cards) * width
    logits = 3 * 4 * engine.max_num_seqs * size.vocab
    available, device = device_bytes(cuda=cuda)
    weights = size.parameters * width / cards
    parts = {"weights": weights, "one step": step + logits, "reserved": RESERVED_GIB * GIB}
    left = max(token * engine.max_model_len, engine.memory_share * available - sum(parts.values()))
    parts["KV cache"] = left if engine.kv_cache_gb is None else engine.kv_cache_gb * GIB
    if cuda:
        return Estimate(parts, available * engine.memory_share, device)
    parts["processed images"] = engine.image_cache_gb * GIB
    return Estimate({name: engines * part for name, part in parts.items()}, available, device)


def _estimate_memory(job: Pass, console: Console) -> None:
    """Print the engines' estimated memory, and refuse what cannot fit. The nodes of a cluster are not checked."""
    config, cuda = job.config, job.config.engine.device == "cuda"
    layers, engines = job.store.layout.layers, 1 if cuda else config.workers
    estimate = engine_memory(read_size(config.model), config.engine, layers=layers, engines=engines)
    console.print(str(estimate))
    if config.cluster is None:
        smaller = "engine.tensor_parallel_size=2 or more" if cuda else "fewer workers, a smaller engine.kv_cache_gb"
        estimate.check(f"take {smaller}, a smaller engine.max_model_len, or a smaller model")


def _finish(job: Pass, progress: Progress, console: Console, *, seconds: float) -> None:
    stats = progress.stats
    console.print(
        f"{stats.images} images in {tqdm.format_interval(seconds)}, "
        f"{stats.images / max(progress.seconds, 1e-9):.1f} a second once started; prefix hits {stats.prefix_hits:.0f} %"
    )
    if stats.skipped:
        console.print(f"{stats.skipped} images were left out{named(stats.reasons, stats.skipped)}")
        console.print(f"{job.store.path}: its shards keep that, and ask again once {DELETED}")
    if stats.outside:
        console.print(f"{stats.outside} images are outside the tree by data.stop, and left out")
    if missing := job.store.missing():
        console.print(f"{job.store.path}: {len(missing)} shards are still missing")
        return
    show_summary(job.store, job.dataset, console)
    console.print(f"{job.store.path}: complete")
