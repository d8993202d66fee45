"""Read datasets as their authors publish them into examples with questions.

To add a format, write ``read(config, part) -> Listing`` in a new file and add it to ``FORMATS``.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from heapq import nsmallest
from pathlib import Path

from sekd.datasets import choices, class_trees, inat, photos
from sekd.datasets.base import Dataset, Example, Listing
from sekd.datasets.config import DataConfig, SplitPart, check_config, known_datasets, part_of
from sekd.datasets.images import present
from sekd.errors import SekdError
from sekd.taxonomy import Taxonomy, fold, fold_path

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
    examples, absent = _without_absent(examples, config)
    dataset = Dataset(config, split, listing.taxonomy, _in_asking_order(examples, config), [*listing.notes, *absent])
    if not config.by_descent:
        dataset.notes.extend(_narrow_levels(dataset))
    return dataset


def in_share(examples: Iterable[Example], part: SplitPart) -> list[Example]:
    """The examples of a split's share. Depends only on the id, not on a seed or the files' order."""
    if (part.low, part.high) == (0, 100):
        return list(examples)
    return [each for each in examples if part.low <= 100 * _unit(f"split/{each.id}") < part.high]


def _of_classes(examples: Iterable[Example], classes: Sequence[str], taxonomy: Taxonomy) -> list[Example]:
    """The examples whose path holds one of the names, at any level."""
    wanted = {fold(name) for name in classes}
    if unknown := wanted.difference(*map(fold_path, taxonomy.leaves)):
        raise SekdError(f"data.classes: the taxonomy holds no {', '.join(sorted(unknown))}")
    return [example for example in examples if example.path and wanted.intersection(fold_path(example.path))]


def _in_asking_order(examples: Sequence[Example], config: DataConfig) -> list[Example]:
    """Shuffled by seed and cut to the limit. A smaller limit gives the first examples of a larger one."""

    def place(example: Example) -> tuple[float, str]:
        return _unit(f"order/{config.seed}/{example.id}"), example.id

    return nsmallest(len(examples) if config.limit is None else config.limit, examples, key=place)


def _unit(text: str) -> float:
    """A fixed hash of the text, even over [0, 1)."""
    return int.from_bytes(blake2b(text.encode(), digest_size=6).digest()) / 2**48


def _without_absent(examples: list[Example], config: DataConfig) -> tuple[list[Example], list[str]]:
    found = present(Path(config.root), (example.image for example in examples))
    absent = [example for example in examples if example.image not in found]
    if not absent:
        return examples, []
    counted = f"{len(absent)} of {len(examples)} listed images are absent from {config.root}, like {absent[0].image}"
    if len(absent) > config.missing_share * len(examples):
        raise SekdError(
            f"data {config.name}: {counted}; complete the folder, or accept a larger share with data.missing_share "
            f"(now {config.missing_share})"
        )
    return [example for example in examples if example.image in found], [f"{counted}, and left out"]


def _narrow_levels(dataset: Dataset) -> list[str]:
    """Notes on the levels that offer fewer options than asked for, or no choice."""
    taxonomy, counts = dataset.taxonomy, Counter[tuple[str, bool]]()
    by_path = Counter(example.path or () for example in dataset.examples if example.questions is None)
    for path, count in by_path.items():
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
