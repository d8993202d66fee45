"""The embedded world's taxonomies: five kingdoms of four levels.

Every image shows four attributes, one a level. A node's *name* depends on its parent's name and its own attribute: the
same name means different attributes under different parents, as a species epithet does under different genera. A model
that knows the parent needs one attribute to name the child. A model that does not must infer the whole path.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

LEVELS = ("order", "family", "genus", "species")
VALUES = 4  # attribute values a level, and so children a node
NAMES = (4, 6, 6, 6)  # names a level
PATTERNS = "plain striped dotted ringed"

# A name is a stem of one syllable and an ending that depends on the level, as in zoological nomenclature.
ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z")
VOWELS = ("a", "e", "i", "o", "u")
ENDINGS = ("iformes", "idae", "us", "ensis")


@dataclass(frozen=True)
class Kingdom:
    """A taxonomy. ``attributes`` holds, level by level, the attribute's name and its four values."""

    name: str
    attributes: tuple[tuple[str, tuple[str, ...]], ...]
    seed: int

    @cached_property
    def names(self) -> tuple[tuple[str, ...], ...]:
        """The names of each level, coarse to fine. No name occurs twice in the world."""
        return tuple(
            tuple(stem.capitalize() + ENDINGS[level] if level < 3 else stem + ENDINGS[level] for stem in stems)
            for level, stems in enumerate(_stems()[self.name])
        )

    @cached_property
    def tables(self) -> tuple[np.ndarray, ...]:
        """For each level an integer array [parent name, attribute value] -> name, both as indices.

        Names within a row differ, so siblings have different names. The first level has one parent, 0.
        """
        rng = np.random.default_rng(self.seed)
        parents = (1, *NAMES[:-1])
        return tuple(
            np.stack([rng.permutation(count)[:VALUES] for _ in range(above)])
            for count, above in zip(NAMES, parents, strict=True)
        )

    def name_indices(self, values: np.ndarray) -> np.ndarray:
        """Attribute values [n, level] -> indices of the names along the path [n, level]."""
        path = np.zeros_like(values)
        parent = np.zeros(len(values), dtype=values.dtype)
        for level, table in enumerate(self.tables):
            parent = path[:, level] = table[parent, values[:, level]]
        return path

    def shown(self, values: Iterable[int]) -> dict[str, str]:
        """Attribute values [level] -> attribute -> its value in words."""
        return {name: words[value] for (name, words), value in zip(self.attributes, values, strict=True)}

    def path(self, values: np.ndarray) -> tuple[str, ...]:
        """Attribute values [level] -> the names along the path, coarse to fine."""
        indices = self.name_indices(values[None])[0]
        return tuple(self.names[level][index] for level, index in enumerate(indices))


# For each level the attribute and its values.
ATTRIBUTES = {
    "Fauna": {
        "colour": "red green blue yellow",
        "shape": "disc dart box kite",
        "pattern": PATTERNS,
        "fin": "finless spiked sailed crowned",
    },
    "Flora": {
        "colour": "pink purple orange white",
        "shape": "daisy tulip bell clover",
        "leaf": "leafless leftleaf rightleaf bothleaf",
        "pattern": PATTERNS,
    },
    "Vessel": {
        "shape": "bowl flask urn jar",
        "pattern": PATTERNS,
        "colour": "teal brown grey lime",
        "handle": "handleless lefthandle righthandle lidded",
    },
    "Moth": {
        "shape": "broad tailed narrow scalloped",
        "colour": "amber cyan rose olive",
        "antenna": "bald forked curled clubbed",
        "pattern": PATTERNS,
    },
    "Rocket": {
        "colour": "crimson azure gold silver",
        "flame": "unlit single double plume",
        "pattern": PATTERNS,
        "shape": "needle dome capsule saucer",
    },
}
KINGDOMS = {
    name: Kingdom(name, tuple((attribute, tuple(values.split())) for attribute, values in levels.items()), seed)
    for seed, (name, levels) in enumerate(ATTRIBUTES.items(), start=11)
}
IN_DOMAIN = ("Fauna", "Vessel", "Rocket")
UNSEEN = ("Flora", "Moth")


def _stems(seed: int = 7) -> dict[str, list[list[str]]]:
    """Distinct stems for every kingdom and level, the same on every machine."""
    rng = np.random.default_rng(seed)
    taken: set[str] = set()

    def stem() -> str:
        while True:
            word = "".join(rng.choice(part) for part in (ONSETS, VOWELS, ONSETS))
            if word not in taken:
                taken.add(word)
                return word

    return {name: [[stem() for _ in range(count)] for count in NAMES] for name in KINGDOMS}
