"""Writes an embedded world to disk in iNaturalist 2021's layout, which ``sekd.datasets.inat`` reads.

``<root>/<split>.json`` holds images, annotations and categories; images are in ``<root>/<split>/<category folder>/``.
"""

import argparse
import json
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from sekd.embedded.forest import FOREST
from sekd.embedded.kingdoms import DEMO
from sekd.embedded.render import SIDE
from sekd.embedded.trees import Tree, World, leaves

WORLDS = {world.name: world for world in (DEMO, FOREST)}
SEED = 2021


def images_of(world: World) -> dict[str, dict[str, int]]:
    """Split -> tree -> number of images. In-domain trees are distilled on together.

    val is for choosing settings, test for the scores.
    """
    return {
        "train_mini": dict.fromkeys(world.in_domain, 4000),
        "val": dict.fromkeys((*world.in_domain, *world.unseen), 200),
        "test": dict.fromkeys(world.in_domain, 200) | dict.fromkeys(world.unseen, 400),
    }


def write_world(
    root: Path | str, *, world: World = DEMO, images: dict[str, dict[str, int]] | None = None, seed: int = SEED
) -> Path:
    """Render and write every split, and the hierarchy of all trees as ``tree.csv``.

    Args:
        images: split -> tree -> number of images; ``images_of(world)`` by default.
        seed: for attributes, positions and shades. Each split has its own random stream.
    """
    root = Path(root)
    for index, (split, counts) in enumerate((images or images_of(world)).items()):
        _write_split(root, split, counts, world, np.random.default_rng([seed, index]))
    header, width = ("leaf", "kingdom", *world.levels), 2 + len(world.levels)
    rows = [
        (category["image_dir_name"], *path, *[""] * (width - 1 - len(path)))
        for path, category in categories_by_path(world).items()
    ]
    (root / "tree.csv").write_text("".join(",".join(row) + "\n" for row in (header, *rows)))
    return root


def sample(tree: Tree, rng: np.random.Generator, count: int) -> np.ndarray:
    """Attribute values [count, level], each uniform."""
    return rng.integers(0, tree.branching, (count, len(tree.branching)))


def picture(tree: Tree, values: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """The image of one leaf: attribute values [level] -> RGB image."""
    return tree.draw(tree.name, tree.shown(values), rng)


def categories_by_path(world: World = DEMO) -> dict[tuple[str, ...], dict[str, Any]]:
    """The path of every leaf, from its tree's name on -> its category, with iNaturalist's columns.

    A rank above the last is empty where the world does not have it or the path ends above it.
    """
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for tree in world.trees.values():
        for values in leaves(tree):
            path, number = tree.path(values), len(rows)
            rows[tree.name, *path] = {
                "id": number,
                "name": path[-1],
                "common_name": " ".join(tree.shown(values).values()),
                "supercategory": tree.name,
                "kingdom": tree.name,
                "phylum": "",
                "class": "",
                **dict(zip_longest(world.levels[:-1], path[: len(world.levels) - 1], fillvalue="")),
                "specific_epithet": path[-1],
                "image_dir_name": "_".join((f"{number:05d}", tree.name, *path)),
            }
    return rows


def _write_split(root: Path, split: str, counts: dict[str, int], world: World, rng: np.random.Generator) -> None:
    by_path = categories_by_path(world)
    images, annotations = [], []
    trees = [(world.trees[name], count) for name, count in counts.items()]
    todo = [(tree, values) for tree, count in trees for values in sample(tree, rng, count)]
    for number, (tree, values) in enumerate(tqdm(todo, desc=f"{root / split}", unit="image")):
        category = by_path[(tree.name, *tree.path(values))]
        file = Path(split) / category["image_dir_name"] / f"{number:06d}.jpg"
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        picture(tree, values, rng).save(root / file, quality=92)
        images.append({"id": number, "width": SIDE, "height": SIDE, "file_name": str(file), "license": 0})
        annotations.append({"id": number, "image_id": number, "category_id": category["id"]})
    licenses = [{"id": 0, "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}]
    table = {"images": images, "annotations": annotations, "categories": [*by_path.values()], "licenses": licenses}
    # The table is written last: if it exists, all its images do.
    (root / f"{split}.json").write_text(json.dumps(table))


def main() -> None:
    parser = argparse.ArgumentParser(description="Render an embedded world in iNaturalist 2021's layout.")
    parser.add_argument("root", nargs="?", type=Path, help="folder to write; by default data/<world>")
    parser.add_argument("--world", choices=WORLDS, default=DEMO.name)
    given = parser.parse_args()
    write_world(given.root or Path("data") / given.world, world=WORLDS[given.world])


if __name__ == "__main__":
    main()
