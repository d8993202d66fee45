"""A dataset in memory, independent of its format on disk. Images are named, not opened."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import cycle, repeat
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from sekd.datasets.config import DataConfig
from sekd.questions import Question, build_questions
from sekd.taxonomy import Names, Taxonomy

AT_ONCE = 65536  # examples that are objects at a time


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


def example_columns(ids: Sequence[str], leaves: Sequence[int]) -> pa.Table:
    """The columns of ``Examples``."""
    return pa.table({"id": pa.array(ids, pa.large_string()), "leaf": pa.array(leaves, pa.int32())})


def texts(column: pa.ChunkedArray) -> Iterator[str]:
    """The texts of a column, of which few are objects at a time."""
    for start in range(0, len(column), AT_ONCE):
        yield from column[start : start + AT_ONCE].to_pylist()


@dataclass(frozen=True, eq=False)
class Examples(Sequence[Example]):
    """Examples as columns, a tenth of the objects' memory: an ``Example`` is made when it is asked for.

    Attributes:
        columns: id (text), leaf (int32, an index in ``paths``), and image (text) unless each id is the image's path.
        paths: the paths that occur, and None at the end, for the leaf -1.
        given: the questions of each example where the dataset gives them.
        file: where ``saved`` put the columns. Such examples are pickled as the file's name.
    """

    columns: pa.Table
    paths: tuple[Names | None, ...]
    given: tuple[tuple[Question, ...] | None, ...] | None = None
    file: Path | None = None

    @classmethod
    def of(cls, examples: Iterable[Example]) -> "Examples":
        if isinstance(examples, cls):
            return examples
        rows = list(examples)
        paths = {path: index for index, path in enumerate(dict.fromkeys(e.path for e in rows if e.path is not None))}
        columns = example_columns([e.id for e in rows], [-1 if e.path is None else paths[e.path] for e in rows])
        if any(e.id != str(e.image) for e in rows):
            columns = columns.append_column("image", pa.array([str(e.image) for e in rows], pa.large_string()))
        given = tuple(e.questions for e in rows) if any(e.questions is not None for e in rows) else None
        return cls(columns, (*paths, None), given)

    @property
    def ids(self) -> pa.ChunkedArray:
        return self.columns["id"]

    @property
    def images(self) -> pa.ChunkedArray:
        """The images' paths below the root."""
        return self.columns["image" if "image" in self.columns.column_names else "id"]

    @property
    def leaves(self) -> np.ndarray:
        return self.columns["leaf"].to_numpy()

    def __len__(self) -> int:
        return len(self.columns)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> list[Example]: ...
    def __getitem__(self, place: int | slice) -> Example | list[Example]:
        places = range(len(self))[place]
        if isinstance(places, int):
            return self[places : places + 1][0]
        rows = (
            self.columns.slice(places.start, len(places)) if places.step == 1 else self.columns.take(pa.array(places))
        )
        part = Examples(rows, self.paths, None if self.given is None else tuple(self.given[n] for n in places))
        return [
            Example(name, Path(image), self.paths[leaf], asked)
            for name, image, leaf, asked in zip(
                part.ids.to_pylist(), part.images.to_pylist(), part.leaves, part.given or cycle((None,)), strict=False
            )
        ]

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), AT_ONCE):
            yield from self[start : start + AT_ONCE]

    def take(self, places: np.ndarray) -> "Examples":
        """The examples at these indices, or those where a mask is true, in that order."""
        places = np.flatnonzero(places) if places.dtype == bool else places
        given = None if self.given is None else tuple(self.given[place] for place in places)
        return Examples(self.columns.take(pa.array(places)), self.paths, given)

    def saved(self, file: Path) -> "Examples":
        """The same examples, whose columns lie in a new file that every process maps into its memory."""
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, self.columns.schema) as writer:
            writer.write_table(self.columns, max_chunksize=AT_ONCE)
        return self.opened(file, self.paths, self.given)

    @classmethod
    def opened(cls, file: Path, paths: Any, given: Any) -> "Examples":
        """The examples whose columns ``saved`` wrote."""
        return cls(pa.ipc.open_file(pa.memory_map(str(file))).read_all(), paths, given, file)

    def __reduce__(self) -> Any:
        if self.file is None:
            return type(self), (self.columns, self.paths, self.given)
        return self.opened, (self.file, self.paths, self.given)

    def digest(self, *, ids_only: bool = False) -> str:
        """SHA-256 of the ids, and of paths and given questions, as one line of JSON an example."""
        encode, total = json.JSONEncoder(ensure_ascii=False).encode, hashlib.sha256()
        paths, leaves = [encode(path) for path in self.paths], self.leaves.tolist()
        for start in range(0, len(self), AT_ONCE):
            ids = map(encode, self.ids[start : start + AT_ONCE].to_pylist())
            if ids_only:
                lines = [f"[{name}]\n" for name in ids]
            else:
                given = self.given[start : start + AT_ONCE] if self.given else ()
                asked = (encode([vars(question) for question in questions or ()]) for questions in given)
                rows = zip(ids, leaves[start : start + AT_ONCE], asked if given else repeat("[]"), strict=False)
                lines = [f"[{name}, {paths[leaf]}, {questions}]\n" for name, leaf, questions in rows]
            total.update("".join(lines).encode())
        return total.hexdigest()


@dataclass(frozen=True)
class Listing:
    """The result of a format's reader: every example of a part in any order, and notes on what was left out."""

    taxonomy: Taxonomy
    examples: Iterable[Example]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Dataset:
    """The examples of one split, in their fixed order, and what was left out and why."""

    config: DataConfig
    split: str
    taxonomy: Taxonomy
    examples: Sequence[Example]
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
        return {
            "name": self.name,
            "split": self.split,
            "items": self._items,
            "taxonomy": _digest([self.taxonomy.skip, self.taxonomy.level_names, *self.taxonomy.leaves]),
            **self._choices,
            **descent,
        }

    def shared(self, file: Path) -> "Dataset":
        """The same dataset for many processes: its examples are in a new file, which each maps into its memory."""
        dataset = replace(self, examples=Examples.of(self.examples).saved(file))
        vars(dataset)["_items"] = self._items  # of millions, hashed once
        return dataset

    @cached_property
    def _items(self) -> str:
        return Examples.of(self.examples).digest(ids_only=self.config.by_descent)

    @property
    def _choices(self) -> dict[str, Any]:
        config = self.config
        return {"seed": config.seed, "distractors": config.distractors, "options": config.options}


def _digest(items: Any) -> str:
    total = hashlib.sha256()
    for item in items:
        total.update(json.dumps(item, ensure_ascii=False).encode() + b"\n")
    return total.hexdigest()
