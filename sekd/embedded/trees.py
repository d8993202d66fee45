"""What an embedded world is made of: taxonomies whose every level is an attribute that its images show.

A node's *name* depends on its parent's name and its own attribute: the same name means different attributes under
different parents, as a species epithet does under different genera. A model that knows the parent needs one attribute
to name the child. A model that does not must infer the whole path.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image

# A name is a stem of one syllable and an ending that depends on the level, as in zoological nomenclature.
ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z")
VOWELS = ("a", "e", "i", "o", "u")

Names = tuple[tuple[str, ...], ...]  # level by level
Draw = Callable[[str, dict[str, str], np.random.Generator], Image.Image]


@dataclass(frozen=True)
class Tree:
    """A taxonomy.

    Attributes:
        attributes: level by level the attribute's name and its values; each value is a child of every node above.
        names: level by level the names of the nodes. No name occurs twice in the world.
        seed: of ``tables``.
        draw: renders an image from the tree's name, the attributes shown, and random numbers.
        ends: values at which a path ends early. They belong to attributes after the first.
        balanced: a value has another name under every parent, so that a name alone tells nothing about the value.
    """

    name: str
    attributes: tuple[tuple[str, tuple[str, ...]], ...]
    names: Names
    seed: int
    draw: Draw
    ends: frozenset[str] = frozenset()
    balanced: bool = False

    @cached_property
    def branching(self) -> tuple[int, ...]:
        """Children a node, by the level of the children."""
        return tuple(len(values) for _, values in self.attributes)

    @cached_property
    def tables(self) -> tuple[np.ndarray, ...]:
        """For each level an integer array [parent name, attribute value] -> name, both as indices.

        Names within a row differ, so siblings have different names. The first level has one parent, 0.
        """
        rng = np.random.default_rng(self.seed)
        counts = [len(words) for words in self.names]
        make = _balanced_table if self.balanced else _table
        return tuple(map(make, repeat(rng), counts, (1, *counts[:-1]), self.branching))

    def name_indices(self, values: np.ndarray) -> np.ndarray:
        """Attribute values [n, level] -> indices of the names along the path [n, level]."""
        path = np.zeros_like(values)
        parent = np.zeros(len(values), dtype=values.dtype)
        for level, table in enumerate(self.tables):
            parent = path[:, level] = table[parent, values[:, level]]
        return path

    def depths(self, values: np.ndarray) -> np.ndarray:
        """Attribute values [n, level] -> the number of levels of each path [n]."""
        depth = np.full(len(values), len(self.attributes))
        for level in reversed(range(len(self.attributes))):
            ending = [index for index, value in enumerate(self.attributes[level][1]) if value in self.ends]
            depth[np.isin(values[:, level], ending)] = level + 1
        return depth

    def shown(self, values: np.ndarray) -> dict[str, str]:
        """Attribute values [level] -> attribute -> its value in words, down to where the path ends."""
        depth = self.depths(values[None])[0]
        return {name: words[value] for (name, words), value in zip(self.attributes[:depth], values, strict=False)}

    def path(self, values: np.ndarray) -> tuple[str, ...]:
        """Attribute values [level] -> the names along the path, coarse to fine."""
        indices = self.name_indices(values[None])[0][: self.depths(values[None])[0]]
        return tuple(self.names[level][index] for level, index in enumerate(indices))


def _table(rng: np.random.Generator, names: int, parents: int, children: int) -> np.ndarray:
    return np.stack([rng.permutation(names)[:children] for _ in range(parents)])


def _balanced_table(rng: np.random.Generator, names: int, parents: int, children: int) -> np.ndarray:
    """As ``_table``; within a column names differ too. There are at most as many parents as names."""
    while True:
        table = np.stack([rng.permutation(names)[:parents] for _ in range(children)], 1)
        if all(len(set(row)) == children for row in table.tolist()):
            return table


@dataclass(frozen=True)
class World:
    """Trees that are drawn and learned together.

    Attributes:
        levels: names of the levels, coarse to fine; a tree of fewer levels has the first of them.
        in_domain, unseen: trees that are distilled on together, and trees that never are.
        base: the folder of the model that knows the world.
    """

    name: str
    levels: tuple[str, ...]
    trees: Mapping[str, Tree]
    in_domain: tuple[str, ...]
    unseen: tuple[str, ...]
    base: Path


def name_trees(counts: Mapping[str, Sequence[int]], endings: Sequence[str], seed: int) -> dict[str, Names]:
    """Distinct names for every tree and level, the same on every machine: tree -> level -> names.

    Args:
        counts: tree -> number of names by level.
        endings: what a level's names end with; those of the last are in lower case.
    """
    rng = np.random.default_rng(seed)
    taken: set[str] = set()

    def stem() -> str:
        while True:
            word = "".join(rng.choice(part) for part in (ONSETS, VOWELS, ONSETS))
            if word not in taken:
                taken.add(word)
                return word

    def names(level: int, count: int) -> tuple[str, ...]:
        words = [stem() + endings[level] for _ in range(count)]
        return tuple(words if level == len(endings) - 1 else [word.capitalize() for word in words])

    return {name: tuple(names(level, count) for level, count in enumerate(levels)) for name, levels in counts.items()}


def read_attributes(levels: Mapping[str, str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Attribute -> its values in one string, as ``Tree`` holds them."""
    return tuple((attribute, tuple(values.split())) for attribute, values in levels.items())


def leaves(tree: Tree) -> Iterable[np.ndarray]:
    """Attribute values [level] of every leaf, in the order of the tree. Below an early end they are 0."""
    grid = np.stack([axis.ravel() for axis in np.indices(tree.branching)], 1)
    below = np.arange(len(tree.branching)) >= tree.depths(grid)[:, None]
    return grid[(grid * below == 0).all(1)]
