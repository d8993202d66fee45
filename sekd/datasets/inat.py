"""iNaturalist 2021, or any set in its layout: one JSON a split, with images, annotations and categories.

A category's columns are its path: kingdom, phylum, class, order, family, genus, and its name for the species.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sekd.datasets.base import Example, Listing
from sekd.datasets.config import DataConfig, SplitPart
from sekd.datasets.tables import read_json
from sekd.errors import SekdError
from sekd.taxonomy import Names, Taxonomy, fold

LEVELS = ("kingdom", "phylum", "class", "order", "family", "genus", "species")
COLUMNS = {"species": "name"}  # the species' own column holds its epithet alone


def read(config: DataConfig, part: SplitPart) -> Listing:
    """Every annotated image of ``<root>/<part>`` whose category has the configured values."""
    file = Path(config.root) / part.source
    table = read_json(file, holds=("images", "annotations", "categories"))
    levels = config.levels or LEVELS
    kept = table["categories"]
    for column, values in config.within.items():
        held, wanted = {str(category.get(column)) for category in kept}, set(map(fold, values))
        kept = [category for category in kept if fold(str(category.get(column))) in wanted]
        if not kept:
            raise SekdError(
                f"{file}: no category has {column} in {', '.join(values)}; it holds {', '.join(sorted(held)[:20])}; "
                "set data.within"
            )
    paths = {category["id"]: _path(category, levels, file) for category in kept}
    labels = {annotation["image_id"]: annotation["category_id"] for annotation in table["annotations"]}
    if stray := set(labels.values()) - {category["id"] for category in table["categories"]}:
        raise SekdError(f"{file}: annotations name the category {min(stray)}, which is not among its categories")
    examples = [
        Example.at(image["file_name"], paths.get(labels.get(image["id"], -1)))
        for image in table["images"]
        if config.by_descent or labels.get(image["id"]) in paths  # without labels, none chooses an image
    ]
    unlabelled = sum(image["id"] not in labels for image in table["images"])
    notes = [f"{unlabelled} images of {file} have no annotation"] if unlabelled and not config.by_descent else []
    return Listing(Taxonomy(paths.values(), skip=config.skip, level_names=levels), examples, notes)


def _path(category: dict[str, Any], levels: Sequence[str], file: Path) -> Names:
    path = tuple(str(category.get(COLUMNS.get(level, level)) or "").strip() for level in levels)
    if not all(path):
        raise SekdError(
            f"{file}: category {category['id']} ({category.get('name')}) has no path: its {levels[path.index('')]} is "
            "missing or empty; fill it in, or set data.levels to the columns that every category has"
        )
    return path
