"""The questions of a path: at each level the true node and distractors of that level, in random order.

A question depends only on the seed, the sample's id, its path and the tree, so any worker can build it. Levels at which
the tree offers no alternative are left out.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sekd.errors import SekdError
from sekd.taxonomy import Taxonomy, fold

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Question:
    """One level's choice. ``truth`` is for scoring alone: neither prompts nor the teacher read it."""

    depth: int  # index of the level in the full path
    level: str  # the level's name, "order"
    options: tuple[str, ...]  # in the order of their letters
    truth: int | None  # index of the true option; None where it is unknown

    @property
    def truth_name(self) -> str | None:
        return None if self.truth is None else self.options[self.truth]


def build_questions(
    *, sample_id: str, path: Sequence[str], taxonomy: Taxonomy, seed: int, distractors: str = "random", options: int = 4
) -> tuple[Question, ...]:
    """The questions of one sample, coarse to fine, below the taxonomy's skipped levels.

    Args:
        path: the sample's node, of any depth; every node above it is asked about.
        distractors: "random" draws uniformly from the nodes of the level, so a name of several nodes is likelier;
            "similar" takes the nearest nodes first: siblings, then cousins, and so on.
        options: choices a question, the truth included; fewer where the level has fewer names.

    Raises:
        SekdError: the taxonomy holds no such node, or ``distractors`` or ``options`` is out of range.
    """
    check_choices(distractors, options)
    nodes = taxonomy.path(path)
    rng = random.Random(f"{seed}/{sample_id}")
    questions = []
    for depth in range(taxonomy.skip, len(nodes)):
        names = [nodes[depth], *_distractors(rng, nodes[: depth + 1], taxonomy, distractors, options - 1)]
        if len(names) > 1:
            shuffled = tuple(names[index] for index in in_random_order(rng, 0, len(names)))
            questions.append(Question(depth, taxonomy.level_name(depth), shuffled, shuffled.index(nodes[depth])))
    return tuple(questions)


def check_choices(distractors: str, options: int) -> None:
    if distractors not in ("random", "similar"):
        raise SekdError(f"data.distractors={distractors!r} is unknown: choose random or similar")
    if not 2 <= options <= len(LETTERS):
        raise SekdError(f"data.options={options}: a question has 2 to {len(LETTERS)} options")


def _distractors(rng: random.Random, node: Sequence[str], taxonomy: Taxonomy, kind: str, count: int) -> list[str]:
    """Up to ``count`` names of the node's level that differ from its name and from each other."""
    depth = len(node) - 1
    names, folded = taxonomy.names[depth], taxonomy.folded_names[depth]
    nearest = depth if kind == "similar" else taxonomy.skip
    used = {fold(node[-1])}
    picked: list[str] = []
    # From the siblings outwards. Each wider set of relatives contains the narrower ones, whose names are used already.
    for shared in range(nearest, taxonomy.skip - 1, -1):
        for index in in_random_order(rng, *taxonomy.span(depth, node[:shared])):
            if len(picked) == count:
                return picked
            if folded[index] not in used:
                used.add(folded[index])
                picked.append(names[index])
    return picked


def in_random_order(rng: random.Random, start: int, stop: int) -> Iterator[int]:
    """Every integer of [start, stop) once: a lazy Fisher-Yates shuffle.

    Uses only ``rng.random``, whose sequence Python guarantees not to change.
    """
    moved: dict[int, int] = {}
    for last in range(stop - 1, start - 1, -1):
        drawn = start + int(rng.random() * (last + 1 - start))
        yield moved.get(drawn, drawn)
        moved[drawn] = moved.get(last, last)
