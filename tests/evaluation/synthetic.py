"""Synthetic kept generations: models that are right at a chosen rate, worded as a real one words them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sekd.evaluation.generations import Cell, Generation, list_cells, write_part
from sekd.prompts import Prompter
from sekd.questions import LETTERS, Question

LEVELS = ("order", "family", "genus", "species")
PROMPTER = Prompter.named("taxonomist")


def questions(rng: np.random.Generator, *, levels: Sequence[str] = LETTERS[:4], known: bool = True) -> tuple:
    asked = []
    for depth, level in enumerate(LEVELS[: len(levels)]):
        names = tuple(f"{level} {i}" for i in rng.permutation(6)[:4])
        asked.append(Question(depth + 1, level, names, int(rng.integers(4)) if known else None))
    return tuple(asked)


def answer(rng: np.random.Generator, question: Question, rate: float) -> int:
    truth = question.truth if question.truth is not None else 0
    return truth if rng.random() < rate else int(rng.choice([i for i in range(4) if i != truth]))


def generation(
    sample: str, asked: Sequence[Question], answers: Sequence[int], *, paradigm: str, unparsed: bool = False
) -> Generation:
    calls = 1 if paradigm == "joint" else len(asked)
    text, _ = PROMPTER.joint_answer(asked, answers)
    texts = ("I cannot tell.",) if unparsed else (text,)
    logprobs = tuple(tuple(float(x) for x in np.log(np.where(np.arange(4) == chosen, 0.7, 0.1))) for chosen in answers)
    return Generation(
        sample=sample,
        image=f"images/{sample}.jpg",
        questions=tuple(asked),
        texts=texts if paradigm == "joint" else tuple(LETTERS[chosen] for chosen in answers),
        letter_logprobs=tuple(() for _ in asked) if unparsed else logprobs,
        prompt_tokens=(120,) * calls,
        cached_tokens=tuple(64 if call else 0 for call in range(calls)),
        new_tokens=((24,) if paradigm == "joint" else (1,) * calls),
        latency=(0.05,) * calls,
        wall=0.01,
        key=sample,
    )


def write_run(
    run: Path,
    *,
    n: int = 60,
    seeds: int = 2,
    trees: Sequence[str] = ("demo", "demo_moth"),
    known: bool = True,
    students: Sequence[str] = ("student",),
    ways: Sequence[str] = ("joint",),
    images: bool = True,
) -> list[Cell]:
    """A whole evaluated run: base in three paradigms and students in these ways, on every tree; its cells."""
    cells = []
    for tree in trees:
        root = run / "data" / tree
        plan = [("base", "", "joint", 0.5), ("base", "", "independent", 0.8), ("base", "", "conditioned", 0.95)]
        names = [""] if seeds == 1 else [f"seed{i}" for i in range(seeds)]
        plan += [(student, seed, way, 0.85) for student in students for seed in names for way in ways]
        for number, (model, seed, paradigm, rate) in enumerate(plan):
            part = "in_domain" if tree == trees[0] else "unseen"
            cell = Cell(part, tree, model, seed, paradigm, f"{number:016x}", str(root), {"wording": "taxonomist"})
            rng = np.random.default_rng(number)
            rows = []
            for i in range(n):
                asked = questions(np.random.default_rng([i, len(tree)]), known=known)
                answers = [answer(rng, question, rate) for question in asked]
                unparsed = (model, paradigm) == ("base", "joint") and i % 10 == 3
                rows.append(generation(f"s{i:04d}", asked, answers, paradigm=paradigm, unparsed=unparsed))
            write_part(run / "generations" / cell.folder, cell, rows[: n // 2])
            write_part(run / "generations" / cell.folder, cell, rows[n // 2 :])
            cells.append(cell)
        if images:
            write_images(root, n)
    list_cells(run, cells, {tree: [f"s{i:04d}" for i in range(n)] for tree in trees})
    return cells


def write_images(root: Path, n: int) -> None:
    (root / "images").mkdir(parents=True, exist_ok=True)
    for i in range(n):
        colour = (40 * i % 255, 90, 200 - i)
        Image.new("RGB", (48, 48), colour).save(root / "images" / f"s{i:04d}.jpg")
