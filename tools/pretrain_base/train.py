"""Pretrains the embedded base model on images of the embedded world.

The first stage trains on captions, lineages and listings: the model learns to see and to bind letters to names that it
reads. The second trains on all tasks; in a world of many trees with auxiliary losses at letters that come before names.
A second round continues from the weights of the first; its learning rates fall to zero at the end.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from sekd.embedded import BASE
from sekd.embedded.trees import World
from sekd.embedded.world import WORLDS, picture, sample
from sekd.models import ModelConfig, load_processor
from tools.pretrain_base import forward, tiny_vlm
from tools.pretrain_base.auxiliary import auxiliary_losses
from tools.pretrain_base.initialise import initialise
from tools.pretrain_base.model_card import card
from tools.pretrain_base.muon import Muon
from tools.pretrain_base.probe import probe
from tools.pretrain_base.tasks import LabelBatch, TaskBatch, Tasks

PROBED = 500  # fresh images of all trees
TRAIN_SEED, PROBE_SEED = 1, 2  # not the seed of the world on disk: no image of the demo is trained on


@dataclass(frozen=True)
class Mixture:
    """Sequences of each task in one step; ``tasks`` defines the tasks."""

    caption: int = 24
    lineage: int = 24
    listing: int = 16
    open_dialogue: int = 24
    naming: int = 24
    single: int = 16
    told: int = 16
    told_numbered: int = 16
    conditioned: int = 32
    pair: int = 16
    pair_every: int = 5  # steps from one batch of two-level replies to the next
    told_joint: int = 0
    joint: int = 16
    joint_every: int = 40  # steps from one batch of whole-path replies to the next


@dataclass(frozen=True)
class Settings:
    """Length and learning rates of a round. Rates warm up, stay constant, and fall linearly at the end."""

    steps: int = 2200
    first_stage: int = 160
    images: int = 0  # a step of the first stage; 0: as many as of a later step
    pool: int = 8_000
    matrices_lr: float = 0.01
    others_lr: float = 4e-3
    warm_up: int = 20
    fall: float = 0.4
    weight_decay: float = 0.01  # of the matrices
    clip: float = 1.0
    auxiliary: float = 0.0  # weight of ``auxiliary_losses``
    later_answers: float = 1.0  # weight of a whole-path reply's answers after the first; 0: their form alone is taught
    seed: int = 0
    threads: int = 2  # sums are split among threads, so another number gives other rounding and another model


ROUNDS = {
    "demo": (
        Settings(),
        Settings(steps=700, first_stage=0, matrices_lr=0.006, others_lr=2.4e-3, fall=1.0, seed=1),
    ),
    "forest": (
        Settings(steps=400, first_stage=400, images=96, pool=12_000, weight_decay=0.5, threads=1),
        Settings(
            steps=1700, first_stage=0, pool=12_000, weight_decay=0.5, auxiliary=1.0, later_answers=0.0, fall=1.0, seed=1
        ),
    ),
}
MIXTURES = {
    "demo": Mixture(),
    "forest": Mixture(
        caption=24,
        lineage=24,
        listing=8,
        open_dialogue=8,
        naming=12,
        single=8,
        told=20,
        told_numbered=12,
        conditioned=24,
        pair=0,
        told_joint=8,
        joint=8,
        joint_every=10,
    ),
}


class ImagePool:
    """Rendered images of all trees, preprocessed for the model, with their labels."""

    def __init__(self, tasks: Tasks, count: int, seed: int) -> None:
        self.tasks = tasks
        rng = np.random.default_rng(seed)
        trees = tasks.trees
        tree = rng.integers(0, len(trees), count)
        values = np.zeros((count, len(tasks.level)), dtype=int)
        for row, index in enumerate(tree):
            values[row, : len(trees[index].branching)] = sample(trees[index], rng, 1)[0]
        self.examples = tasks.examples(tree, values, rng)
        processor = load_processor(ModelConfig(name="base", path=str(BASE)))
        self.patches = torch.empty(count, forward.GRID**2, 2 * 3 * tiny_vlm.PATCH**2, dtype=torch.float16)
        for start in tqdm(range(0, count, 100), desc="rendering", unit="00 images"):
            rows = range(start, min(start + 100, count))
            images = [picture(trees[tree[row]], values[row, : len(trees[tree[row]].branching)], rng) for row in rows]
            self.patches[start : rows.stop] = forward.pixels(images, processor).half()

    def draw(self, count: int, rng: np.random.Generator) -> tuple[LabelBatch, Tensor]:
        """Random images [B, P, values] with newly shuffled options."""
        rows = rng.integers(0, len(self.examples), count)
        examples = self.tasks.examples(self.examples.tree[rows], self.examples.values[rows], rng)
        return examples, self.patches[rows].float()


@cache  # the rounds share their images
def image_pool(world: str, count: int, seed: int) -> ImagePool:
    return ImagePool(Tasks(WORLDS[world]), count, seed)


@dataclass(frozen=True)
class Task:
    """Sequences of one task and one length, and the rows of the images that they are about, if any."""

    name: str
    batch: TaskBatch
    rows: np.ndarray | None


@dataclass(frozen=True)
class MicroBatch:
    """Images to encode [B, P, values], and tasks about them."""

    patches: Tensor
    tasks: list[Task]

    def loss(self, vlm: Any, accuracy: dict[str, float], auxiliary: float = 0.0) -> Tensor:
        """Weighted cross-entropy summed over all target tokens, divided by 128: rare tasks have little weight.

        Updates ``accuracy``, each task's running mean of the share of targets predicted correctly. ``auxiliary`` is the
        weight of ``auxiliary_losses`` in the sum.
        """
        images = forward.encode_images(vlm, self.patches)
        sequences = [
            forward.Sequences(
                forward.to_tensor(task.batch.tokens),
                None if task.rows is None else images[torch.from_numpy(task.rows)],
                torch.from_numpy(task.batch.targets - 1),
            )
            for task in self.tasks
        ]
        total = torch.zeros(())
        state = forward.before_last(vlm, sequences)
        for task, given, hidden in zip(self.tasks, sequences, forward.last_layer(vlm, state), strict=True):
            logits, targets = forward.logits(vlm, hidden), given.tokens[:, task.batch.targets]
            losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
            main = task.batch.weights > task.batch.weights.max() / 2
            correct = (logits.argmax(-1) == targets)[:, main].float().mean().item()
            accuracy[task.name] = 0.9 * accuracy.get(task.name, correct) + 0.1 * correct
            total = total + (losses.view(targets.shape) * torch.from_numpy(task.batch.weights).float()).sum() / 128
        if auxiliary:
            letters = [task.batch.letters for task in self.tasks]
            total = total + auxiliary * auxiliary_losses(vlm, state, letters) / 128
        return total


def make_step(
    mixture: Mixture, settings: Settings, *, pool: ImagePool, step: int, rng: np.random.Generator
) -> list[MicroBatch]:
    """The task batches of one step."""
    first, tasks = step < settings.first_stage, pool.tasks
    counts = asdict(mixture)
    images = max(n for name, n in counts.items() if name != "listing" and not name.endswith("_every"))
    if first and settings.images:
        images = settings.images
    examples, patches = pool.draw(images, rng)
    batches: list[Task] = []
    for name, make in _first_stage(tasks) if first else _last_stage(tasks, mixture, settings, step, rng):
        rows = rng.permutation(images)[: (images if first else counts[name])]
        batches += _each_depth(name, make, examples, rows)
    batches.append(Task("listing", tasks.listing(64 if first else mixture.listing, rng), None))
    if first:
        return [MicroBatch(patches, batches)]
    return [MicroBatch(patches, batches), _with_parent(mixture, pool, rng)]


def _each_depth(
    name: str, make: Callable[[LabelBatch], TaskBatch], examples: LabelBatch, rows: np.ndarray
) -> list[Task]:
    """A task's sequences about some images. Those of one depth have one length."""
    parts = [rows] if name in ONE_LEVEL else [rows[each] for each in examples[rows].by_depth()]
    return [Task(name, make(examples[part]), part) for part in parts]


def _with_parent(mixture: Mixture, pool: ImagePool, rng: np.random.Generator) -> MicroBatch:
    """The tasks ``told`` and ``told_numbered``, about images of their own."""
    examples, patches = pool.draw(mixture.told + mixture.told_numbered, rng)
    levels = rng.integers(1, examples.depth)
    plain, numbered = np.split(np.arange(len(examples)), [mixture.told])
    return MicroBatch(
        patches,
        [
            Task("told", pool.tasks.told(examples[plain], levels[plain], numbered=False), plain),
            Task("told_numbered", pool.tasks.told(examples[numbered], levels[numbered], numbered=True), numbered),
        ],
    )


ONE_LEVEL = ("naming", "single")


def _first_stage(tasks: Tasks) -> Iterator[tuple[str, Callable[[LabelBatch], TaskBatch]]]:
    yield "caption", tasks.caption
    yield "lineage", tasks.lineage


def _last_stage(
    tasks: Tasks, mixture: Mixture, settings: Settings, step: int, rng: np.random.Generator
) -> Iterator[tuple[str, Callable[[LabelBatch], TaskBatch]]]:
    yield from _first_stage(tasks)
    yield "open_dialogue", tasks.open_dialogue
    yield "naming", lambda examples: tasks.naming(examples, _levels(examples, rng))
    yield "single", lambda examples: tasks.single(examples, _levels(examples, rng))
    yield "conditioned", tasks.conditioned
    if mixture.told_joint:
        yield "told_joint", partial(tasks.joint, told=True)
    if mixture.pair and step % mixture.pair_every == 0:
        yield "pair", lambda examples: tasks.joint(examples, sorted(rng.choice(len(examples.levels), 2, replace=False)))
    if mixture.joint and step % mixture.joint_every == 0:
        yield "joint", partial(tasks.joint, later_answers=settings.later_answers)


def _levels(examples: LabelBatch, rng: np.random.Generator) -> np.ndarray:
    """A level for each image [B]."""
    # ``rng.integers`` draws other numbers and would train another model than the shipped one.
    return (examples.depth * rng.random(len(examples))).astype(int)


class Optimizers:
    """Muon for the matrices of hidden layers, AdamW for everything else, one schedule for both."""

    def __init__(self, vlm: Any, settings: Settings) -> None:
        named = list(vlm.named_parameters())
        matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name and "lm_head" not in name]
        taken = {id(p) for p in matrices}
        self.others = [p for _, p in named if id(p) not in taken]
        self.optimizers = (
            Muon(matrices, lr=settings.matrices_lr, weight_decay=settings.weight_decay),
            torch.optim.AdamW(self.others, lr=settings.others_lr, betas=(0.9, 0.98), weight_decay=0.0),
        )
        self.rates = (settings.matrices_lr, settings.others_lr)
        self.settings = settings

    def update(self, loss: Tensor, step: int) -> None:
        """Backward pass and one optimizer step."""
        left = 1 - step / self.settings.steps
        factor = min(1, (step + 1) / self.settings.warm_up) * min(1, max(0.02, left / self.settings.fall))
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
            optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.others, self.settings.clip)
        for optimizer in self.optimizers:
            optimizer.step()


def pretrain(
    folder: Path,
    world: World,
    mixture: Mixture,
    settings: Settings,
    *,
    start: Path | None = None,
    probe_every: int = 200,
) -> None:
    """Train one round, from scratch or from the weights in ``start``.

    Writes the model in fp16, ``training.json`` and the model card to ``folder``.
    """
    from transformers import Qwen2_5_VLForConditionalGeneration

    started = time.monotonic()
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    if start:
        vlm = Qwen2_5_VLForConditionalGeneration.from_pretrained(start, dtype=torch.float32)
    else:
        vlm = Qwen2_5_VLForConditionalGeneration(tiny_vlm.config(world))
        initialise(vlm)
    optimizers = Optimizers(vlm, settings)
    pool, fresh = image_pool(world.name, settings.pool, TRAIN_SEED), image_pool(world.name, PROBED, PROBE_SEED)
    rng = np.random.default_rng(settings.seed)
    accuracy: dict[str, float] = {}
    seen = {"sequences": 0, "tokens": 0}
    for step in tqdm(range(settings.steps), desc="pretraining", unit="step"):
        batches = make_step(mixture, settings, pool=pool, step=step, rng=rng)
        loss = torch.stack([batch.loss(vlm, accuracy, settings.auxiliary) for batch in batches]).sum()
        optimizers.update(loss, step)
        for task in chain.from_iterable(each.tasks for each in batches):
            seen["sequences"] += len(task.batch.tokens)
            seen["tokens"] += task.batch.tokens.size
        if step % 20 == 0:
            shares = " ".join(f"{task} {share:.2f}" for task, share in accuracy.items())
            tqdm.write(f"step {step}: loss {loss.item():.2f} {shares}")
        if ((step + 1) % probe_every == 0 and step > settings.first_stage) or step + 1 == settings.steps:
            scores = _probe(vlm, fresh)
            tqdm.write(f"step {step + 1}: {json.dumps(scores)}")
    tiny_vlm.save(vlm.half(), folder, world=world)
    minutes = round((time.monotonic() - started) / 60, 1)
    this = {"settings": asdict(settings), "mixture": asdict(mixture), "seen": seen, "minutes": minutes}
    earlier = json.loads((start / "training.json").read_text())["rounds"] if start else []
    facts = {"rounds": [*earlier, this], "exam": scores, "exam_images": len(fresh.examples)}
    (folder / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    (folder / "README.md").write_text(card(facts, world, sum(p.numel() for p in vlm.parameters())))


def _probe(vlm: Any, pool: ImagePool) -> dict[str, dict[str, dict[str, float]]]:
    """Tree -> strategy -> scores, rounded to a tenth of a percent."""
    scores = {}
    with torch.inference_mode():
        for index, name in enumerate(pool.tasks.world.trees):
            rows = np.flatnonzero(pool.examples.tree == index)
            images = forward.encode_images(vlm, pool.patches[rows].float())
            found = probe(vlm, images, pool.tasks, pool.examples[rows])
            scores[name] = {kind: {key: round(v, 1) for key, v in cell.items()} for kind, cell in found.items()}
    return scores
