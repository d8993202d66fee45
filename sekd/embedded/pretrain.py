"""Pretrains the embedded base model on the world's lessons: ``make base``.

Two stages. First captions, lineages and listings, so that the model sees and can bind letters to names; then the
whole mixture. And two rounds: the second goes on from the first one's weights with rates that fall once more. The
mixture is written to the model's card as it was used.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from sekd.embedded import forward, lessons, tiny_vlm
from sekd.embedded.card import card
from sekd.embedded.exam import examine
from sekd.embedded.initialise import initialise
from sekd.embedded.kingdoms import KINGDOMS, LEVELS
from sekd.embedded.lessons import Lesson, Scene
from sekd.embedded.muon import Muon
from sekd.embedded.world import picture, sample

POOL_SEED, EXAM_SEED = 1, 2  # apart from the seed of the world on disk: no image of the demo is pretrained on


@dataclass(frozen=True)
class Mixture:
    """Sequences of each kind in one step; ``lessons`` says what each is."""

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
    pair_every: int = 5  # steps between two batches of two levels in one answer
    joint: int = 16
    joint_every: int = 40  # steps between two batches of all levels in one answer


@dataclass(frozen=True)
class Settings:
    """How long and how fast. Learning rates warm up, hold, and fall linearly over the last part."""

    steps: int = 2200
    first_stage: int = 160
    pool: int = 8_000
    matrices_lr: float = 0.01
    others_lr: float = 4e-3
    warm_up: int = 20
    fall: float = 0.4
    clip: float = 1.0
    seed: int = 0
    threads: int = 2  # sums are split among them and round otherwise: another number trains another model


ROUNDS = (
    Settings(),
    Settings(steps=700, first_stage=0, matrices_lr=0.006, others_lr=2.4e-3, fall=1.0, seed=1),
)

Part = tuple[str, Lesson, np.ndarray | None]  # kind, lesson, rows of the images it is about


class Pool:
    """Rendered images of all kingdoms, as the image processor hands them to the model."""

    def __init__(self, count: int, seed: int) -> None:
        from sekd.models import ModelConfig, load_processor

        rng = np.random.default_rng(seed)
        trees = list(KINGDOMS.values())
        kingdom = rng.integers(0, len(trees), count)
        values = np.concatenate([sample(trees[index], rng, 1) for index in kingdom])
        self.scene = Scene.of(kingdom, values, rng)
        processor = load_processor(ModelConfig(name="base", path=str(tiny_vlm.BASE)))
        self.patches = torch.empty(count, forward.GRID**2, 2 * 3 * tiny_vlm.PATCH**2, dtype=torch.float16)
        for start in tqdm(range(0, count, 100), desc="rendering", unit="00 images"):
            rows = range(start, min(start + 100, count))
            images = [picture(trees[kingdom[row]], values[row], rng) for row in rows]
            self.patches[start : rows.stop] = forward.pixels(images, processor).half()

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Scene, Tensor]:
        rows = rng.integers(0, len(self.scene), count)
        scene = Scene.of(self.scene.kingdom[rows], self.scene.values[rows], rng)
        return scene, self.patches[rows].float()


@cache
def _rendered(count: int, seed: int) -> Pool:
    """Rounds share their images."""
    return Pool(count, seed)


def study(mixture: Mixture, settings: Settings, *, pool: Pool, step: int, rng: np.random.Generator) -> "list[Step]":
    """The lessons of one step, by the images they are about."""
    first = step < settings.first_stage
    counts = asdict(mixture)
    images = max(counts[kind] for kind in ("caption", "conditioned", "single"))
    scene, patches = pool.draw(images, rng)
    parts: list[Part] = []
    for kind, make in _first_lessons() if first else _all_lessons(mixture, step, rng):
        rows = rng.permutation(images)[: (images if first else counts[kind])]
        parts.append((kind, make(scene[rows]), rows))
    parts.append(("listing", lessons.listing(64 if first else mixture.listing, rng), None))
    return [Step(patches, parts)] if first else [Step(patches, parts), _told(mixture, pool, rng)]


def _told(mixture: Mixture, pool: Pool, rng: np.random.Generator) -> "Step":
    """Questions that come with the name above, about images of their own."""
    scene, patches = pool.draw(mixture.told + mixture.told_numbered, rng)
    levels = rng.integers(1, len(LEVELS), len(scene))
    plain, numbered = np.split(np.arange(len(scene)), [mixture.told])
    parts: list[Part] = [
        ("told", lessons.told(scene[plain], levels[plain], numbered=False), plain),
        ("told_numbered", lessons.told(scene[numbered], levels[numbered], numbered=True), numbered),
    ]
    return Step(patches, parts)


@dataclass(frozen=True)
class Step:
    """Images to encode [B, P, values], and for each lesson which of them it is about."""

    patches: Tensor
    lessons: list[Part]

    def loss(self, vlm: Any, right: dict[str, float]) -> Tensor:
        """Weighted cross-entropy of every scored token, over 128: a sum, so that rare lessons count as they come.

        ``right`` takes the share of scored tokens that were the likeliest, a running mean for each kind of lesson.
        """
        images = forward.encode_images(vlm, self.patches)
        total = torch.zeros(())
        for kind, lesson, rows in self.lessons:
            tokens = forward.to_tensor(lesson.tokens)
            shown = None if rows is None else images[torch.from_numpy(rows)]
            hidden = forward.decode(vlm, tokens, shown)
            scores = forward.logits(vlm, hidden[:, lesson.scored - 1])
            losses = functional.cross_entropy(
                scores.flatten(0, 1), tokens[:, lesson.scored].flatten(), reduction="none"
            )
            hits = (scores.argmax(-1) == tokens[:, lesson.scored])[:, lesson.weights >= 0.5].float().mean().item()
            right[kind] = 0.9 * right.get(kind, hits) + 0.1 * hits
            total = total + (losses.view(len(tokens), -1) * torch.from_numpy(lesson.weights).float()).sum() / 128
        return total


def _first_lessons() -> Iterator[tuple[str, Callable[[Scene], Lesson]]]:
    """Kind and maker of every lesson with images in one step of the first stage."""
    yield "caption", lessons.caption
    yield "lineage", lessons.lineage


def _all_lessons(
    mixture: Mixture, step: int, rng: np.random.Generator
) -> Iterator[tuple[str, Callable[[Scene], Lesson]]]:
    """The same for the second stage."""
    yield from _first_lessons()
    yield "open_dialogue", lessons.open_dialogue
    yield "naming", lambda scene: lessons.naming(scene, _levels(scene, rng))
    yield "single", lambda scene: lessons.single(scene, _levels(scene, rng))
    yield "conditioned", lessons.conditioned
    if mixture.pair and step % mixture.pair_every == 0:
        yield "pair", lambda scene: lessons.joint(scene, sorted(rng.choice(len(LEVELS), 2, replace=False)))
    if mixture.joint and step % mixture.joint_every == 0:
        yield "joint", lessons.joint


def _levels(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A level for each image [B]."""
    # ``rng.integers`` would do as well, and train another base: its random order is part of what was shipped.
    return (len(LEVELS) * rng.random(len(scene))).astype(int)


class Trainer:
    """Muon for the matrices, AdamW for the rest, one schedule for both."""

    def __init__(self, vlm: Any, settings: Settings) -> None:
        named = list(vlm.named_parameters())
        matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name and "lm_head" not in name]
        taken = {id(p) for p in matrices}
        self.others = [p for _, p in named if id(p) not in taken]
        self.optimizers = (
            Muon(matrices, lr=settings.matrices_lr),
            torch.optim.AdamW(self.others, lr=settings.others_lr, betas=(0.9, 0.98), weight_decay=0.0),
        )
        self.rates = (settings.matrices_lr, settings.others_lr)
        self.settings = settings

    def update(self, loss: Tensor, step: int) -> None:
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
    folder: Path, mixture: Mixture, settings: Settings, *, start: Path | None = None, examine_every: int = 200
) -> None:
    """Train and save to ``folder`` in fp16, with the model's card and the facts it is made of.

    From scratch, or a further round from the weights in ``start``.
    """
    from transformers import Qwen2_5_VLForConditionalGeneration

    started = time.monotonic()
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    if start:
        vlm = Qwen2_5_VLForConditionalGeneration.from_pretrained(start, dtype=torch.float32)
    else:
        vlm = Qwen2_5_VLForConditionalGeneration(tiny_vlm.config())
        initialise(vlm)
    trainer = Trainer(vlm, settings)
    pool, exam = _rendered(settings.pool, POOL_SEED), _rendered(500, EXAM_SEED)
    rng = np.random.default_rng(settings.seed)
    right: dict[str, float] = {}
    seen: dict[str, int] = {"sequences": 0, "tokens": 0}
    bar = tqdm(range(settings.steps), desc="pretraining", unit="step")
    for step in bar:
        studied = study(mixture, settings, pool=pool, step=step, rng=rng)
        loss = torch.stack([part.loss(vlm, right) for part in studied]).sum()
        trainer.update(loss, step)
        for _, lesson, _ in chain.from_iterable(part.lessons for part in studied):
            seen["sequences"] += len(lesson.tokens)
            seen["tokens"] += lesson.tokens.size
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.2f}")
            tqdm.write(
                f"step {step}: loss {loss.item():.2f} "
                + " ".join(f"{kind} {share:.2f}" for kind, share in right.items())
            )
        if ((step + 1) % examine_every == 0 and step > settings.first_stage) or step + 1 == settings.steps:
            scores = _examine(vlm, exam)
            tqdm.write(f"step {step + 1}: {json.dumps(scores)}")
    tiny_vlm.save(vlm.half(), folder)
    minutes = round((time.monotonic() - started) / 60, 1)
    this = {"settings": asdict(settings), "mixture": asdict(mixture), "seen": seen, "minutes": minutes}
    earlier = json.loads((start / "training.json").read_text())["rounds"] if start else []
    facts = {"rounds": [*earlier, this], "exam": scores, "exam_images": len(exam.scene)}
    (folder / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    (folder / "README.md").write_text(card(facts, sum(p.numel() for p in vlm.parameters())))


def _examine(vlm: Any, exam: Pool) -> dict[str, dict[str, dict[str, float]]]:
    """Kingdom -> paradigm -> scores, rounded to a tenth of a percent."""
    scores = {}
    with torch.inference_mode():
        for index, name in enumerate(KINGDOMS):
            rows = np.flatnonzero(exam.scene.kingdom == index)
            images = forward.encode_images(vlm, exam.patches[rows].float())
            found = examine(vlm, images, exam.scene[rows])
            scores[name] = {kind: {key: round(v, 1) for key, v in cell.items()} for kind, cell in found.items()}
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description="Pretrain the embedded base model.")
    parser.add_argument("folder", nargs="?", type=Path, default=tiny_vlm.BASE)
    for field, default in {**asdict(Mixture()), **asdict(Settings())}.items():
        parser.add_argument(f"--{field}", type=type(default), help="in every round")
    given = {field: value for field, value in vars(parser.parse_args()).items() if value is not None}
    folder = given.pop("folder")
    mixture = Mixture(**{field: given.pop(field) for field in asdict(Mixture()) if field in given})
    for number, settings in enumerate(ROUNDS):
        pretrain(folder, mixture, replace(settings, **given), start=folder if number else None)


if __name__ == "__main__":
    main()
