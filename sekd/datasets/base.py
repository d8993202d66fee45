"""A dataset in memory, independent of its format on disk. Images are named, not opened."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sekd.datasets.config import DataConfig
from sekd.questions import Question, build_questions
from sekd.taxonomy import Names, Taxonomy


@dataclass(frozen=True, slots=True)
class Example:
    """One image. ``id`` is stable: the image's path below the root. ``image`` is relative to the root."""

    id: str
    image: Path
    path: tuple[str, ...] | None  # names coarse to fine, the skipped levels included; None where unknown
    questions: tuple[Question, ...] | None = None  # where the dataset gives them; built from the path otherwise

    @classmethod
    def at(cls, image: str, path: tuple[str, ...] | None) -> "Example":
        """The example of an image, whose path below the root is its id."""
        return cls(image, Path(image), path)


@dataclass(frozen=True)
class Listing:
    """The result of a format's reader: every example of a part in any order, and notes on what was left out."""

    taxonomy: Taxonomy
    examples: list[Example]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Dataset:
    """The examples of one split, in their fixed order, and what was left out and why."""

    config: DataConfig
    split: str
    taxonomy: Taxonomy
    examples: list[Example]
    notes: list[str]

    @property
    def roots(self) -> Sequence[Names]:
        """The nodes that a descent starts from: those that have a choice below them."""
        return self.taxonomy.roots_with_a_choice()

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def root(self) -> Path:
        return Path(self.config.root)

    def image_path(self, example: Example) -> Path:
        return self.root / example.image

    def questions(self, example: Example) -> tuple[Question, ...]:
        """The example's questions, coarse to fine: as the dataset gives them, or built from its path."""
        if example.questions is not None:
            return example.questions
        assert example.path is not None, "an example has a path or questions of its own"
        return self.questions_on(example, example.path)

    def questions_on(self, example: Example, path: Sequence[str]) -> tuple[Question, ...]:
        """Questions built from a path, which may be another than the example's own."""
        return build_questions(sample_id=example.id, path=path, taxonomy=self.taxonomy, **self._choices)

    def identity(self) -> dict[str, Any]:
        """What the questions depend on, for the store's fingerprint: items in order, tree, choices; not the folder.

        Under descent no label is part of it.
        """
        descent: dict[str, Any] = {}
        if self.config.by_descent:
            descent = {name: getattr(self.config, name) for name in ("questions", "beam", "stop")}
            items = _digest([example.id] for example in self.examples)
        else:
            items = _digest(
                [example.id, example.path, [vars(question) for question in example.questions or ()]]
                for example in self.examples
            )
        return {
            "name": self.name,
            "split": self.split,
            "items": items,
            "taxonomy": _digest([self.taxonomy.skip, self.taxonomy.level_names, *self.taxonomy.leaves]),
            **self._choices,
            **descent,
        }

    @property
    def _choices(self) -> dict[str, Any]:
        config = self.config
        return {"seed": config.seed, "distractors": config.distractors, "options": config.options}


def _digest(items: Any) -> str:
    total = hashlib.sha256()
    for item in items:
        total.update(json.dumps(item, ensure_ascii=False).encode() + b"\n")
    return total.hexdigest()
