"""An official question file of the benchmark: one JSON object a line, whose questions are used as given.

A line holds image, label, level1, choices_level1, level2 and so on. The recorded image paths are those of the authors'
machine; their beginning is replaced by the local root. A level whose name is null is not asked about.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from sekd.datasets.base import Example, Listing
from sekd.datasets.config import DataConfig, SplitPart
from sekd.datasets.tables import locate, read_lines
from sekd.errors import SekdError
from sekd.questions import Question
from sekd.taxonomy import Names, Taxonomy, fold

TRIED = 100  # recorded paths that are looked for on disk to find what the root replaces


def read(config: DataConfig, part: SplitPart) -> Listing:
    """Every line of a question file, in the root or in the working directory."""
    file = locate(config.root, part.source)
    rows = list(_rows(file))
    prefix = _recorded_root([row["image"] for row in rows], config, file)
    prefix += "/" if prefix else ""
    examples: list[Example] = []
    paths: list[Names] = []
    seen: Counter[str] = Counter()
    left_out = 0
    for number, row in enumerate(rows, start=1):
        questions = tuple(_questions(row, config, f"{file}, line {number}"))
        paths.append(tuple(row["levels"].values()))
        left_out += len(paths[-1]) - len(questions)
        if not row["image"].startswith(prefix):
            raise SekdError(
                f"{file}: image {row['image']} does not lie below {prefix}; set data.recorded_root to the beginning of "
                "all its image paths"
            )
        image = row["image"].removeprefix(prefix)
        seen[image] += 1
        # An image may have two lines; ids stay unique.
        name = image if seen[image] == 1 else f"{image}#{seen[image]}"
        examples.append(Example(name, Path(image), paths[-1], questions))
    note = f"{left_out} levels have no choices in {file}, or are skipped, and are not asked about"
    taxonomy = Taxonomy(paths, skip=config.skip, level_names=config.levels)
    return Listing(taxonomy, examples, [note] if left_out else [])


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """The lines' objects; ``levels`` is added: number of a level -> its true name, without those that are null."""
    for number, line in enumerate(read_lines(file), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise SekdError(f"{file}, line {number} is not valid JSON ({error}): the file may be cut off") from error
        names = row.items() if isinstance(row, dict) else ()
        found = {int(key[5:]): str(name) for key, name in names if re.fullmatch(r"level\d+", key) and name is not None}
        if not found or "image" not in row:
            raise SekdError(f"{file}, line {number}: expected an object with image, level1, choices_level1, …")
        yield {**row, "image": str(row["image"]), "levels": dict(sorted(found.items()))}


def _questions(row: dict[str, Any], config: DataConfig, where: str) -> Iterator[Question]:
    for number, truth in row["levels"].items():
        choices = row.get(f"choices_level{number}")
        if number <= config.skip or not choices or len(choices) < 2:
            continue
        # Letters are stored for so many options alone; a descent makes its own questions.
        if len(choices) > config.options and not config.by_descent:
            raise SekdError(f"{where}: level {number} has {len(choices)} choices; set data.options={len(choices)}")
        folded = [fold(choice) for choice in choices]
        if fold(truth) not in folded:
            raise SekdError(
                f"{where}: the truth of level {number}, {truth!r}, is not among its choices {', '.join(choices)}"
            )
        if len(set(folded)) < len(folded):
            raise SekdError(f"{where}: level {number} offers a choice twice: {', '.join(choices)}")
        names = config.levels or []
        level = names[number - 1] if number <= len(names) else f"level {number}"
        yield Question(number - 1, level, tuple(choices), folded.index(fold(truth)))


def _recorded_root(images: list[str], config: DataConfig, file: Path) -> str:
    """The beginning of the recorded paths that the root replaces: as set, or found from some images on disk."""
    if config.recorded_root is not None:
        return config.recorded_root.rstrip("/")
    for image in images[:TRIED]:
        parts = PurePosixPath(image).parts
        for start in range(len(parts)):
            if Path(config.root, *parts[start:]).is_file() and parts[start] != "/":
                return str(PurePosixPath(*parts[:start])) if start else ""
    raise SekdError(
        f"{file}: none of its first images lies below {config.root}, for example {images[0]}; set data.recorded_root "
        "to the beginning of these paths that stands for data.root"
    )
