"""A dataset whose tree is a file of its own: finds the file, and each class's leaf in it.

Class names and the tree's keys are spelled differently in every dataset ("022.Chuck_will_Widow", "Chuck-will's-widow").
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from sekd.datasets.config import DataConfig
from sekd.errors import SekdError
from sekd.taxonomy import Names, Taxonomy, fold, load_taxonomy


def read_hierarchy(config: DataConfig) -> Taxonomy:
    """The tree that ``config.hierarchy`` names.

    Raises:
        SekdError: it is not set, absent or no tree.
    """
    if not config.hierarchy:
        raise SekdError(
            f"data {config.name} needs a tree: set data.hierarchy to a JSON file of leaf -> path, coarse to fine, "
            "or a CSV"
        )
    places = [Path(config.root) / config.hierarchy, Path(config.hierarchy)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise SekdError(
            f"data {config.name}: no hierarchy at {' or '.join(map(str, dict.fromkeys(places)))}; "
            "set data.hierarchy to a JSON file of leaf -> path, coarse to fine, or a CSV"
        )
    return load_taxonomy(found, skip=config.skip, level_names=config.levels)


def leaves_of(
    spellings: Mapping[str, Sequence[str]], taxonomy: Taxonomy, config: DataConfig
) -> tuple[dict[str, Names], list[str]]:
    """The leaf of each class.

    Args:
        spellings: class -> what it may be called in the tree, the best first. A tree's key belongs to the class that
            matches it best; its exact spelling is better than one without punctuation.

    Returns:
        class -> path, without the classes that the tree does not hold; and what to note about those.

    Raises:
        SekdError: the tree holds none of the classes, or not all where the hierarchy should be whole.
    """
    leaves: dict[str, Names] = {}
    taken: set[str] = set()
    for rank in range(max(map(len, spellings.values()), default=0)):
        for simplify in (fold, loosened):
            keys = {simplify(key): key for key in taxonomy.keys}
            for name, spelled in spellings.items():
                key = keys.get(simplify(spelled[rank])) if rank < len(spelled) and name not in leaves else None
                if key is not None and key not in taken:
                    leaves[name] = taxonomy.keys[key]
                    taken.add(key)
    without = [name for name in spellings if name not in leaves]
    shown = ", ".join(without[:5]) + (f" and {len(without) - 5} more" if len(without) > 5 else "")
    if not leaves or (without and not config.partial_hierarchy):
        raise SekdError(
            f"data {config.name}: {len(without)} of {len(spellings)} classes have no path in {config.hierarchy}: "
            f"{shown or 'there are no classes'}. Add them to the hierarchy, or leave them out with "
            "data.partial_hierarchy=true"
        )
    return leaves, [f"{len(without)} classes are not in {config.hierarchy} and left out: {shown}"] if without else []


def loosened(name: str) -> str:
    """A name without what spellings differ in: case, accents, possessives, punctuation."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return " ".join(re.findall(r"[a-z0-9]+", plain.replace("'s", "").replace("'", "")))
