"""Read datasets as their authors publish them into examples with questions.

To add a format, write ``read(config, part) -> Listing`` in a new file and add it to ``FORMATS``.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sekd.datasets import choices, class_trees, inat, photos
from sekd.datasets.base import Dataset, Example, Examples, Listing, texts
from sekd.datasets.config import DataConfig, SplitPart, check_config, known_datasets, part_of
from sekd.datasets.images import present
from sekd.errors import SekdError
from sekd.taxonomy import Names, Taxonomy, fold, fold_path

__all__ = ["DataConfig", "Dataset", "Example", "known_datasets", "load_dataset"]

FORMATS: dict[str, Callable[[DataConfig, SplitPart], Listing]] = {
    "inat": inat.read,
    "cub": class_trees.read_cub,
    "food101": class_trees.read_food101,
    "imagenet": class_trees.read_imagenet,
    "folder": class_trees.read_folder,
    "choices": choices.read,
    "photos": photos.read,
}


def load_dataset(config: DataConfig, split: str) -> Dataset:
    """Read one split: "train" is distilled on, "val" is for every choice made, "test" for the score.

    No image is opened. The dataset's notes say what is left out.

    Raises:
        SekdError: the split cannot be read, or more images than the set share are missing.
    """
    check_config(config, FORMATS)
    part = part_of(config, split)
    listing = FORMATS[config.format](config, part)
    examples = in_share(listing.examples, part)
    if config.classes:
        examples = _of_classes(examples, config.classes, listing.taxonomy)
    if not examples:
        raise SekdError(f"data {config.name}: split {split} ({config.splits[split]}) holds no image to ask about")
    examples, unasked = _without_unasked(examples, config, listing.taxonomy)
    examples, absent = _without_absent(examples, config)
    notes = [*listing.notes, *unasked, *absent]
    dataset = Dataset(config, split, listing.taxonomy, _in_asking_order(examples, config), notes)
    if not config.by_descent:
        dataset.notes.extend(_narrow_levels(dataset))
    return dataset


def in_share(examples: Iterable[Example], part: SplitPart) -> Examples:
    """The examples of a split's share. Depends only on the image's path, not on a seed or the files' order."""
    found = Examples.of(examples)
    if (part.low, part.high) == (0, 100):
        return found
    place = 100 * _units("split/", found.images)
    return found.take((part.low <= place) & (place < part.high))


def _of_classes(examples: Examples, classes: Sequence[str], taxonomy: Taxonomy) -> Examples:
    """The examples whose path holds one of the names, at any level."""
    wanted = {fold(name) for name in classes}
    if unknown := wanted.difference(*map(fold_path, taxonomy.leaves)):
        raise SekdError(f"data.classes: the taxonomy holds no {', '.join(sorted(unknown))}")
    chosen = np.array([bool(path and wanted.intersection(fold_path(path))) for path in examples.paths])
    return examples.take(chosen[examples.leaves])


def _in_asking_order(examples: Examples, config: DataConfig) -> Examples:
    """Shuffled by seed and cut to the limit. A smaller limit gives the first examples of a larger one."""
    places = pa.table({"place": _units(f"order/{config.seed}/", examples.ids), "id": examples.ids})
    order = pc.sort_indices(places, sort_keys=[("place", "ascending"), ("id", "ascending")])
    return examples.take(order.to_numpy()[: config.limit])


def _units(prefix: str, names: pa.ChunkedArray) -> np.ndarray:
    """A fixed hash of prefix and name, even over [0, 1), for each name."""
    hashes = (blake2b(f"{prefix}{name}".encode(), digest_size=6).digest() for name in texts(names))
    return np.fromiter((int.from_bytes(hashed) / 2**48 for hashed in hashes), float, len(names))


def _without_unasked(examples: Examples, config: DataConfig, taxonomy: Taxonomy) -> tuple[Examples, list[str]]:
    """Without the images that have no question: nothing of them can be scored or taught."""
    if config.by_descent:
        return examples, []
    if examples.given is not None:
        asked = np.array([given is None or len(given) > 0 for given in examples.given])
    else:
        asked = np.array([path is None or _has_choice(taxonomy, path) for path in examples.paths])[examples.leaves]
    if asked.all():
        return examples, []
    count = len(asked) - int(asked.sum())
    if count == len(asked):
        raise SekdError(
            f"data {config.name}: none of {count} images has a level with a choice; set a smaller data.skip (now "
            f"{config.skip}), or a tree that offers several names at some level"
        )
    return examples.take(asked), [f"{count} images have no level with a choice, and are left out"]


def _has_choice(taxonomy: Taxonomy, path: Names) -> bool:
    return any(taxonomy.distinct_names(depth, path[: taxonomy.skip]) > 1 for depth in range(taxonomy.skip, len(path)))


def _without_absent(examples: Examples, config: DataConfig) -> tuple[Examples, list[str]]:
    found = present(Path(config.root), examples.images)
    if found.all():
        return examples, []
    first = examples[int(np.argmin(found))].image
    count = len(found) - int(found.sum())
    counted = f"{count} of {len(found)} listed images are absent from {config.root}, like {first}"
    if count > config.missing_share * len(found):
        raise SekdError(
            f"data {config.name}: {counted}; complete the folder, or accept a larger share with data.missing_share "
            f"(now {config.missing_share})"
        )
    return examples.take(found), [f"{counted}, and left out"]


def _narrow_levels(dataset: Dataset) -> list[str]:
    """Notes on the levels that offer fewer options than asked for, or no choice."""
    taxonomy, counts = dataset.taxonomy, Counter[tuple[str, bool]]()
    examples = Examples.of(dataset.examples)
    if examples.given is not None:
        return []
    used, images = np.unique(examples.leaves, return_counts=True)
    for path, count in zip((examples.paths[leaf] or () for leaf in used), images.tolist(), strict=True):
        for depth in range(taxonomy.skip, len(path)):
            names = taxonomy.distinct_names(depth, path[: taxonomy.skip])
            if names < dataset.config.options:
                counts[taxonomy.level_name(depth), names == 1] += count
    return [
        f"level {level} is left out for {count} images: it offers a single name"
        if single
        else f"{count} questions of level {level} have fewer options"
        for (level, single), count in counts.items()
    ]
