"""Any folder of images without labels, nested or flat, and a tree to find their paths in."""

import os
from collections import Counter
from pathlib import Path

from sekd.datasets.base import Example, Listing
from sekd.datasets.class_trees import read_hierarchy
from sekd.datasets.config import DataConfig, SplitPart
from sekd.datasets.images import SUFFIXES, is_utf8
from sekd.errors import SekdError
from sekd.taxonomy import Taxonomy, fold


def read(config: DataConfig, part: SplitPart) -> Listing:
    """Every image file at or below ``<root>/<part>``. Hidden files and folders are not entered.

    Raises:
        SekdError: there is no image, or no tree.
    """
    taxonomy = read_hierarchy(config)
    if not taxonomy.roots_with_a_choice():
        raise SekdError(f"data {config.name}: the tree {config.hierarchy} offers no choice: no node has two children")
    folder = Path(config.root) / part.source
    examples, others = [], Counter[str]()
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            if not is_utf8(name):
                others["names that are not UTF-8"] += 1
            elif not name.lower().endswith(SUFFIXES):
                others[Path(name).suffix.lower() or "no suffix"] += 1
            else:
                examples.append(Example.at((Path(parent) / name).relative_to(config.root).as_posix(), None))
    if not examples:
        raise SekdError(
            f"data {config.name}: no image in {folder}: expected files that end in {', '.join(SUFFIXES)}, at any depth"
        )
    notes = [f"{others.total()} other files are left out ({', '.join(sorted(others))})"] if others else []
    return Listing(taxonomy, examples, [*notes, *_like_labels(examples, taxonomy), *_odd_leaves(taxonomy)])


def _like_labels(examples: list[Example], taxonomy: Taxonomy) -> list[str]:
    names = {name for level in taxonomy.folded_names for name in level} | taxonomy.keys.keys()
    alike = sorted({folder for e in examples for folder in e.image.parent.parts if fold(folder) in names})
    if not alike:
        return []
    return [
        f"{len(alike)} folders are called as nodes of the tree, like {alike[0]}: their names are not read as labels; "
        "DATA=folder reads them so"
    ]


def _odd_leaves(taxonomy: Taxonomy) -> list[str]:
    inner = [leaf for leaf in taxonomy.leaves if taxonomy.children(leaf)]
    if not inner:
        return []
    return [
        f"{len(inner)} leaves of the tree have nodes below them, like {' > '.join(inner[0])}: a descent goes on below "
        "them, and ends there only by data.stop"
    ]
