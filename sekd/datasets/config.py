"""A dataset as configured: one entry of ``conf/data``."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from sekd.config_folders import entries
from sekd.descent import check_threshold
from sekd.errors import SekdError
from sekd.questions import check_choices

SPLITS = ("train", "val", "test")  # distilled on; tuned on; scored on


@dataclass
class DataConfig:
    """The location of a dataset, which part of it is used, and how its questions are built.

    A split is the dataset's own file or part ("val.json", "train"), or a share of its images by a fixed hash of their
    paths: "val.json@0-10%" and "val.json@10-100%" have no image in common, now or when images are added.
    """

    name: str
    format: str
    root: str
    splits: dict[str, str | None]
    hierarchy: str | None = None  # a tree's file; looked for in the root, then in the working directory
    partial_hierarchy: bool = False  # classes that the hierarchy does not hold are left out and counted, no error
    levels: list[str] | None = None  # names, coarse to fine; for inat the columns that make the path
    skip: int = 0  # the number of first levels that are not asked about
    within: dict[str, list[str]] = field(default_factory=dict)  # inat: column -> values kept; by descent, of the tree
    wnids: list[str] | None = None  # imagenet: first and last WordNet id kept
    recorded_root: str | None = None  # choices: what the root replaces in the file's image paths; null finds it
    seed: int = 0
    distractors: str = "random"
    options: int = 4
    questions: str = "labels"  # a level asks about the labelled node, or under "descent" about the one found
    beam: int = 3  # descent: so many partial paths are kept
    stop: float = 0.0  # descent: a path ends at its deepest node of at least this probability
    classes: list[str] | None = None  # keep only images with one of these names in their path
    limit: int | None = None  # number of images, drawn by seed; a smaller limit gives the first images of a larger one
    missing_share: float = 0.01  # an error if more than this share of the listed images is missing

    @property
    def by_descent(self) -> bool:
        """Whether the teacher finds each image's path itself; no label is read."""
        return self.questions == "descent"

    @property
    def labelled(self) -> bool:
        """Whether the format has labels, whatever the questions are made of."""
        return self.format != "photos"


@dataclass(frozen=True)
class SplitPart:
    """What one split reads: a file or part of the dataset, and the share [low, high) of it, in percent."""

    source: str
    low: float = 0
    high: float = 100

    def overlaps(self, other: "SplitPart") -> bool:
        return self.source == other.source and self.low < other.high and other.low < self.high


def part_of(config: DataConfig, split: str) -> SplitPart:
    """What a split reads; ``SekdError`` if there is no such split, or two splits share images."""
    parts = {name: _part(config, name, text) for name, text in config.splits.items() if text is not None}
    for first, second in combinations(parts, 2):
        if parts[first].overlaps(parts[second]):
            raise SekdError(
                f"data {config.name}: splits {first} ({config.splits[first]}) and {second} ({config.splits[second]}) "
                "share images; give each its own share, like val.json@0-10% and val.json@10-100%, or set one to null"
            )
    if split not in parts:
        raise SekdError(
            f"data {config.name} has no split {split!r}: it has {', '.join(parts)}; set data.splits.{split}"
        )
    return parts[split]


def _part(config: DataConfig, split: str, text: str) -> SplitPart:
    match = re.fullmatch(r"([^@]+)(?:@([\d.]+)-([\d.]+)%)?", text)
    part = SplitPart(match[1], float(match[2] or 0), float(match[3] or 100)) if match else None
    if part is None or not 0 <= part.low < part.high <= 100:
        raise SekdError(
            f"data {config.name}: split {split} is {text!r}; expected a file or part, or a share of one like "
            "val.json@0-10%"
        )
    return part


def check_config(config: DataConfig, formats: Collection[str]) -> None:
    """Checks that need no file."""
    wrong = None
    if config.format not in formats:
        wrong = f"format {config.format!r} is unknown: choose {', '.join(formats)}"
    elif config.within and config.format != "inat":
        wrong = "data.within needs format inat; choose by data.classes"
    elif not Path(config.root).is_dir():
        wrong = f"the folder {config.root} does not exist; set data.root to where the dataset lies"
    elif config.limit is not None and config.limit < 1:
        wrong = f"data.limit={config.limit}: expected at least one image, or null for all"
    elif config.questions not in ("labels", "descent"):
        wrong = f"data.questions={config.questions!r} is unknown: choose labels or descent"
    elif config.format == "photos" and not config.by_descent:
        wrong = "photos have no labels to make questions of: leave data.questions=descent"
    elif config.by_descent and config.classes:
        wrong = "data.classes chooses images by their labels, which data.questions=descent does not read"
    elif config.beam < 1:
        wrong = f"data.beam={config.beam}: a descent keeps at least one path"
    if wrong:
        raise SekdError(f"data {config.name}: {wrong}")
    check_choices(config.distractors, config.options)
    check_threshold(config.stop, "data.stop")


def known_datasets() -> list[str]:
    """The names that ``data=`` takes."""
    return entries("data")
