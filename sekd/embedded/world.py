"""Writes the embedded world to disk in iNaturalist 2021's layout, which ``sekd.datasets.inat`` reads.

``<root>/<split>.json`` holds images, annotations and categories; images are in ``<root>/<split>/<category folder>/``.
"""

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from sekd.embedded.kingdoms import IN_DOMAIN, KINGDOMS, LEVELS, UNSEEN, VALUES, Kingdom
from sekd.embedded.render import SIDE, render

# Images a kingdom. In-domain kingdoms are distilled on together. val is for choosing settings, test for the scores.
IMAGES = {
    "train_mini": dict.fromkeys(IN_DOMAIN, 4000),
    "val": dict.fromkeys((*IN_DOMAIN, *UNSEEN), 200),
    "test": dict.fromkeys(IN_DOMAIN, 200) | dict.fromkeys(UNSEEN, 400),
}
SEED = 2021


def write_world(root: Path | str, *, images: dict[str, dict[str, int]] | None = None, seed: int = SEED) -> Path:
    """Render and write every split, and the tree of all kingdoms as ``tree.csv``.

    Args:
        images: split -> kingdom -> number of images; ``IMAGES`` by default.
        seed: for attributes, positions and shades. Each split has its own random stream.
    """
    root = Path(root)
    for index, (split, counts) in enumerate((images or IMAGES).items()):
        _write_split(root, split, counts, np.random.default_rng([seed, index]))
    names = ("image_dir_name", "kingdom", *LEVELS[:-1], "name")
    rows = [",".join(str(category[name]) for name in names) for category in categories()]
    (root / "tree.csv").write_text("\n".join([",".join(("leaf", "kingdom", *LEVELS)), *rows]) + "\n")
    return root


def sample(kingdom: Kingdom, rng: np.random.Generator, count: int) -> np.ndarray:
    """Attribute values [count, level], uniform over the tree's leaves."""
    return rng.integers(0, VALUES, (count, len(kingdom.attributes)))


def picture(kingdom: Kingdom, values: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """The image of one leaf: attribute values [level] -> RGB image."""
    return render(kingdom.name, kingdom.shown(values), rng)


def categories() -> list[dict[str, Any]]:
    """One category a leaf of every kingdom, with iNaturalist's columns; phylum and class are empty."""
    rows: list[dict[str, Any]] = []
    for kingdom in KINGDOMS.values():
        for values in product(range(VALUES), repeat=len(LEVELS)):
            path, number = kingdom.path(np.array(values)), len(rows)
            rows.append(
                {
                    "id": number,
                    "name": path[-1],
                    "common_name": " ".join(kingdom.shown(values).values()),
                    "supercategory": kingdom.name,
                    "kingdom": kingdom.name,
                    "phylum": "",
                    "class": "",
                    **dict(zip(LEVELS[:-1], path[:-1], strict=True)),
                    "specific_epithet": path[-1],
                    "image_dir_name": "_".join((f"{number:05d}", kingdom.name, *path)),
                }
            )
    return rows


def _write_split(root: Path, split: str, counts: dict[str, int], rng: np.random.Generator) -> None:
    columns = categories()
    first = {name: index * VALUES ** len(LEVELS) for index, name in enumerate(KINGDOMS)}
    images, annotations = [], []
    todo = [(KINGDOMS[name], values) for name, count in counts.items() for values in sample(KINGDOMS[name], rng, count)]
    for number, (kingdom, values) in enumerate(tqdm(todo, desc=f"{root / split}", unit="image")):
        category = columns[first[kingdom.name] + int("".join(map(str, values)), VALUES)]
        file = Path(split) / category["image_dir_name"] / f"{number:06d}.jpg"
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        picture(kingdom, values, rng).save(root / file, quality=92)
        images.append({"id": number, "width": SIDE, "height": SIDE, "file_name": str(file), "license": 0})
        annotations.append({"id": number, "image_id": number, "category_id": category["id"]})
    licenses = [{"id": 0, "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}]
    table = {"images": images, "annotations": annotations, "categories": columns, "licenses": licenses}
    # The table is written last: if it exists, all its images do.
    (root / f"{split}.json").write_text(json.dumps(table))


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the embedded world in iNaturalist 2021's layout.")
    parser.add_argument("root", nargs="?", default="data/demo", help="folder to write")
    write_world(parser.parse_args().root)


if __name__ == "__main__":
    main()
