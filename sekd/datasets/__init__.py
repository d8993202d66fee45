"""Datasets as their authors publish them -> examples with their questions. One small file a format."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from sekd.datasets import choices, cub, folder, food101, imagenet, inat
from sekd.datasets.base import Dataset, Example, Listing
from sekd.datasets.config import DataConfig, SplitPart, check_config, known_datasets, part_of
from sekd.datasets.images import present
from sekd.datasets.select import in_asking_order, in_share, of_classes
from sekd.errors import SekdError
from sekd.taxonomy import Taxonomy

__all__ = ["DataConfig", "Dataset", "Example", "known_datasets", "load_dataset"]

FORMATS: dict[str, Callable[[DataConfig, SplitPart], Listing]] = {
    "inat": inat.read,
    "cub": cub.read,
    "food101": food101.read,
    "imagenet": imagenet.read,
    "folder": folder.read,
    "choices": choices.read,
}


def load_dataset(config: DataConfig, split: str) -> Dataset:
    """Read one split: "train" is distilled on, "val" is for every choice made, "test" for the score.

    No image is opened. What is left out is told in the dataset's notes.

    Raises:
        SekdError: anything that keeps the split from being read, or more absent images than the set share.
    """
    check_config(config, FORMATS)
    part = part_of(config, split)
    if config.within and config.format != "inat":
        raise SekdError(f"data {config.name}: data.within needs format inat; choose by data.classes")
    listing = FORMATS[config.format](config, part)
    examples = in_share(listing.examples, part)
    if config.classes:
        examples = of_classes(examples, config.classes, listing.taxonomy)
    if not examples:
        raise SekdError(f"data {config.name}: split {split} ({config.splits[split]}) holds no image to ask about")
    examples, absent = _without_absent(examples, config)
    examples = in_asking_order(examples, config)
    dataset = Dataset(config, split, listing.taxonomy, examples, [*listing.notes, *absent])
    dataset.notes.extend(_narrow_levels(dataset))
    return dataset


def _without_absent(examples: list[Example], config: DataConfig) -> tuple[list[Example], list[str]]:
    found = present(Path(config.root), (example.image for example in examples))
    absent = [example for example in examples if example.image not in found]
    if not absent:
        return examples, []
    said = f"{len(absent)} of {len(examples)} listed images are absent from {config.root}, like {absent[0].image}"
    if len(absent) > config.missing_share * len(examples):
        raise SekdError(
            f"data {config.name}: {said}; complete the folder, or accept a larger share with data.missing_share "
            f"(now {config.missing_share})"
        )
    return [example for example in examples if example.image in found], [f"{said}, and left out"]


def _narrow_levels(dataset: Dataset) -> list[str]:
    """Notes on the levels that offer fewer options than asked for, and on those that offer no choice."""
    fewer: Counter[str] = Counter()
    single: Counter[str] = Counter()
    by_path = Counter(example.path for example in dataset.examples if example.questions is None)
    for path, count in by_path.items():
        for level, names in _names_offered(path or (), dataset.taxonomy):
            single[level] += count * (names == 1)
            fewer[level] += count * (1 < names < dataset.config.options)
    return [
        *(f"{count} questions of level {level} have fewer options" for level, count in fewer.items() if count),
        *(
            f"level {level} is left out for {count} images: it offers a single name"
            for level, count in single.items()
            if count
        ),
    ]


def _names_offered(path: tuple[str, ...], taxonomy: Taxonomy) -> list[tuple[str, int]]:
    root = path[: taxonomy.skip]
    return [
        (taxonomy.level_name(depth), taxonomy.distinct_names(depth, root)) for depth in range(taxonomy.skip, len(path))
    ]
