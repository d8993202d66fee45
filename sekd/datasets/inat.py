"""iNaturalist 2021, or any set in its layout: one JSON a split, with images, annotations and categories.

A category's columns are its path: kingdom, phylum, class, order, family, genus, and its name for the species.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from sekd.datasets.base import Examples, Listing, example_columns
from sekd.datasets.config import DataConfig, SplitPart
from sekd.datasets.tables import JsonFile
from sekd.errors import SekdError
from sekd.taxonomy import Names, Taxonomy, fold

LEVELS = ("kingdom", "phylum", "class", "order", "family", "genus", "species")
COLUMNS = {"species": "name"}  # the species' own column holds its epithet alone


class SplitFile(msgspec.Struct):
    """What a split's file holds."""

    images: msgspec.Raw
    annotations: msgspec.Raw
    categories: list[dict[str, Any]]


class Image(msgspec.Struct, gc=False):
    id: int | str
    file_name: str


class Annotation(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int | str


def read(config: DataConfig, part: SplitPart) -> Listing:
    """Every annotated image of ``<root>/<part>`` whose category has the configured values."""
    file = Path(config.root) / part.source
    table = (json := JsonFile(file)).read(SplitFile)
    levels = config.levels or LEVELS
    kept = table.categories
    for column, values in config.within.items():
        held, wanted = {str(category.get(column)) for category in kept}, set(map(fold, values))
        kept = [category for category in kept if fold(str(category.get(column))) in wanted]
        if not kept:
            raise SekdError(
                f"{file}: no category has {column} in {', '.join(values)}; it holds {', '.join(sorted(held)[:20])}; "
                "set data.within"
            )
    paths = {category["id"]: _path(category, levels, file) for category in kept}
    known = {category["id"] for category in table.categories}
    leaves = {category: number for number, category in enumerate(paths)}
    labels: dict[int | str, int] = {}  # image -> leaf, -1 for one that is not kept
    for annotations in json.rows(table.annotations, Annotation):
        if stray := {each.category_id for each in annotations} - known:
            raise SekdError(f"{file}: annotations name the category {min(stray)}, which is not among its categories")
        labels.update((each.image_id, leaves.get(each.category_id, -1)) for each in annotations)
    unlabelled, columns = 0, []
    for images in json.rows(table.images, Image):
        found = [labels.get(image.id) for image in images]
        unlabelled += found.count(None)
        rows = [
            (image.file_name, -1 if leaf is None else leaf)
            for image, leaf in zip(images, found, strict=True)
            if config.by_descent or (leaf is not None and leaf >= 0)  # without labels, none chooses an image
        ]
        columns.append(example_columns(*zip(*rows, strict=True)) if rows else example_columns((), ()))
    # In one piece: putting them in order would else copy them twice.
    examples = Examples(pa.concat_tables(columns).combine_chunks(), (*paths.values(), None))
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
