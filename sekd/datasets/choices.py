"""An official question file of the benchmark: one JSON object a line, whose questions are taken as given.

A line holds image, label, level1, choices_level1, level2 and so on. The recorded image paths are the authors' own
machine's, so their beginning stands for the local root. A level whose name is null is not asked about.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from sekd.datasets.base import Example, Listing
from sekd.datasets.config import DataConfig, SplitPart
from sekd.datasets.tables import read_lines
from sekd.errors import SekdError
from sekd.questions import Question
from sekd.taxonomy import Taxonomy, fold

TRIED = 100  # recorded paths looked for on disk to find what stands for the root


def read(config: DataConfig, part: SplitPart) -> Listing:
    """Every line of a question file, which lies in the root or where the command runs."""
    places = [Path(config.root) / part.source, Path(part.source)]
    file = next((place for place in places if place.is_file()), places[0])
    rows = list(_rows(file))
    recorded = _recorded_root([str(row["image"]) for row in rows], config, file)
    asked = [_questions(row, config, f"{file}, line {number}") for number, row in enumerate(rows, start=1)]
    paths = [tuple(names for _, names in sorted(_levels(row).items())) for row in rows]
    seen: Counter[str] = Counter()
    examples = []
    for row, path, questions in zip(rows, paths, asked, strict=True):
        image = _below(str(row["image"]), recorded, file)
        seen[image] += 1
        # An image may be asked about twice; ids stay apart.
        name = image if seen[image] == 1 else f"{image}#{seen[image]}"
        examples.append(Example(name, Path(image), path, questions))
    left_out = sum(len(_levels(row)) for row in rows) - sum(map(len, asked))
    notes = (
        [f"{left_out} levels have no choices in {file}, or are skipped, and are not asked about"] if left_out else []
    )
    return Listing(Taxonomy(paths, skip=config.skip, level_names=config.levels), examples, notes)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(read_lines(file), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise SekdError(f"{file}, line {number} is not valid JSON ({error}): the file may be cut off") from error
        if not isinstance(row, dict) or "image" not in row or not _levels(row):
            raise SekdError(f"{file}, line {number}: expected an object with image, level1, choices_level1, …")
        yield row


def _levels(row: dict[str, Any]) -> dict[int, str]:
    """Number of a level -> its true name, without those that are null."""
    numbers = [int(match.group(1)) for key in row if (match := re.fullmatch(r"level(\d+)", key))]
    return {number: str(row[f"level{number}"]) for number in numbers if row[f"level{number}"] is not None}


def _questions(row: dict[str, Any], config: DataConfig, where: str) -> tuple[Question, ...]:
    questions = []
    for number, truth in sorted(_levels(row).items()):
        choices = row.get(f"choices_level{number}")
        if number <= config.skip or not choices or len(choices) < 2:
            continue
        folded = [fold(choice) for choice in choices]
        if fold(truth) not in folded:
            raise SekdError(
                f"{where}: the truth of level {number}, {truth!r}, is not among its choices {', '.join(choices)}"
            )
        if len(set(folded)) < len(folded):
            raise SekdError(f"{where}: level {number} offers a choice twice: {', '.join(choices)}")
        names = config.levels or []
        level = names[number - 1] if number <= len(names) else f"level {number}"
        questions.append(Question(number - 1, level, tuple(choices), folded.index(fold(truth))))
    return tuple(questions)


def _recorded_root(images: list[str], config: DataConfig, file: Path) -> str:
    """The beginning of the recorded paths that stands for the root: as set, or found by looking for some images."""
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


def _below(image: str, recorded: str, file: Path) -> str:
    if not recorded:
        return image
    if not image.startswith(f"{recorded}/"):
        raise SekdError(
            f"{file}: image {image} does not lie below {recorded}; set data.recorded_root to the beginning of all its "
            "image paths"
        )
    return image[len(recorded) + 1 :]
