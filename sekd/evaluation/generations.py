"""Stored generations: one Parquet row an image and paradigm, from which every score can be recomputed.

A *cell* is one dataset, one model and one paradigm. Its folder is named by a digest of what its answers depend on, so
that cells with other settings are kept side by side. A row's ``key`` covers its image, so that a folder serves every
limit and selection of images. The folder holds ``part-*.parquet`` files; each carries the cell's identity in its
schema. Parts are written under a temporary name and renamed, so an interrupted run leaves complete parts, and the next
one generates only what is missing. Parts are never deleted.
"""

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sekd.errors import SekdError, first_line
from sekd.files import atomic, write_whole
from sekd.questions import Question
from sekd.taxonomy import Taxonomy

METADATA = b"sekd.cell"
SCHEMA = pa.schema(
    {
        "key": pa.string(),  # digest of the sample, its questions and its image's size
        "sample": pa.string(),
        "image": pa.string(),  # path relative to the dataset's root
        "depths": pa.list_(pa.int8()),
        "levels": pa.list_(pa.string()),
        "options": pa.list_(pa.list_(pa.string())),
        "truth": pa.list_(pa.int8()),  # index of the true option, -1 where unknown
        "texts": pa.list_(pa.string()),  # the model's text, one entry a call: 1 joint, one a level otherwise
        "letter_logprobs": pa.list_(pa.list_(pa.float32())),  # a level: log-probability of each option's letter
        "prompt_tokens": pa.list_(pa.int32()),  # a call
        "cached_tokens": pa.list_(pa.int32()),
        "new_tokens": pa.list_(pa.int32()),
        "latency": pa.list_(pa.float32()),  # seconds from a call to its last token, with other calls in progress
        "wall": pa.float32(),  # the image's share of its part's seconds
    }
)
ASKED = ("depths", "levels", "options", "truth")  # the columns that hold a row's questions
CALL_COLUMNS = ("prompt_tokens", "cached_tokens", "new_tokens", "latency")


@dataclass(frozen=True)
class Generation:
    """One image's generations in one paradigm. Per-call fields have one entry a call, per-level ones one a question.

    ``letter_logprobs[i]`` holds natural logarithms of the model's unrestricted probabilities of the letters of
    question i at its answer position; it is empty where the answer has no such position. ``key`` is
    that of ``evaluate.example_key``.
    """

    sample: str
    image: str
    questions: tuple[Question, ...]
    texts: tuple[str, ...]
    letter_logprobs: tuple[tuple[float, ...], ...]
    prompt_tokens: tuple[int, ...]
    cached_tokens: tuple[int, ...]
    new_tokens: tuple[int, ...]
    latency: tuple[float, ...]
    wall: float
    key: str = ""


@dataclass(frozen=True)
class Cell:
    """The identity of a folder of generations. ``digest`` covers what all its answers depend on."""

    part: str  # "in_domain" or "unseen"
    tree: str  # the dataset's name
    model: str  # "base", "student", or the name of another student of the run
    seed: str  # the training's seed; "" if there is only one
    paradigm: str
    digest: str
    root: str  # the dataset's folder, for the gallery
    facts: dict[str, Any]  # the digest's input and versions, for provenance

    @property
    def folder(self) -> Path:
        return Path(self.tree, *self.model.split("/"), *([self.seed] if self.seed else []), self.paradigm, self.digest)


def write_part(folder: Path, cell: Cell, generations: Sequence[Generation]) -> None:
    """Add one part to a cell's folder, under a name that no part has had."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"part-{len(list(folder.glob('part-*.parquet'))):05d}-{uuid.uuid4().hex[:12]}"
    schema = SCHEMA.with_metadata({METADATA: json.dumps(vars(cell)).encode()})
    table = pa.Table.from_pylist([_row(generation) for generation in generations], schema=schema)
    with atomic(folder / f"{name}.parquet") as partial:
        pq.write_table(table, partial, compression="zstd")


def read_cell(folder: Path, keys: Collection[str] | None = None) -> tuple[Cell, list[Generation]]:
    """A cell's identity and its generations, ordered by sample, so that cells of one dataset pair up row by row.

    ``keys`` are the rows to read, once each; None reads all. Raises ``SekdError`` if the folder holds no part, or
    a file that is not one.
    """
    identity = read_identity(folder)
    found: dict[tuple[str, str], Generation] = {}
    for part in sorted(folder.glob("part-*.parquet")):
        for generation in map(_generation, _table(part).to_pylist()):
            if keys is None or generation.key in keys:
                found.setdefault((generation.sample, generation.key), generation)
    return identity, sorted(found.values(), key=lambda generation: generation.sample)


def read_identity(folder: Path) -> Cell:
    part = min(folder.glob("part-*.parquet"), default=None)
    if part is None:
        raise SekdError(f"{folder} holds no part-*.parquet: expected the kept generations of one cell")
    try:
        metadata = pq.read_schema(part).metadata or {}
        return Cell(**json.loads(metadata[METADATA]))
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise _not_ours(part, error) from error


def kept_keys(folder: Path) -> set[str]:
    parts = folder.glob("part-*.parquet")
    return {key for part in parts for key in _table(part, ["key"]).column("key").to_pylist()}


def add_refused(folder: Path, reasons: Mapping[str, str], *, room: int) -> None:
    """Remember why the model refused images, by their keys, where a prompt may have ``room`` tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {**read_refused(folder, room=room), **reasons}
    write_whole(folder / f"refused-{room}.json", json.dumps(known, indent=1) + "\n")


def read_refused(folder: Path, *, room: int) -> dict[str, str]:
    """What ``add_refused`` wrote. With other room the images are asked about again."""
    file = folder / f"refused-{room}.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def list_cells(
    run: Path, cells: Sequence[Cell], keys: Mapping[str, Collection[str]], trees: Mapping[str, Taxonomy] | None = None
) -> None:
    """Record a finished evaluation: its cells, the keys of every dataset's images, and the trees that are known.

    Written last: a listed cell holds every listed key.
    """
    listed = [
        {"folder": str(Path("generations") / cell.folder), "tree": cell.tree, "part": cell.part, "root": cell.root}
        for cell in cells
    ]
    content = {
        "cells": listed,
        "keys": {tree: sorted(each) for tree, each in keys.items()},
        "trees": {
            name: {"skip": tree.skip, "level_names": tree.level_names, "leaves": tree.leaves}
            for name, tree in (trees or {}).items()
        },
    }
    write_whole(run / "cells.json", json.dumps(content, indent=1) + "\n")


@dataclass(frozen=True)
class Listed:
    """A cell of the last finished evaluation, its folder, and the keys of its images."""

    cell: Cell
    folder: Path
    keys: frozenset[str]


def read_listed(run: Path) -> list[Listed]:
    """The cells that the run's last finished evaluation consists of, in its order, without their generations.

    Raises:
        SekdError: the run's evaluation is not finished, or a part cannot be read.
    """
    listed = _listing(run)
    keys = {tree: frozenset(each) for tree, each in listed["keys"].items()}
    return [
        Listed(replace(read_identity(folder), part=entry["part"], root=entry["root"]), folder, keys[entry["tree"]])
        for entry in listed["cells"]
        for folder in [run / entry["folder"]]
    ]


def read_trees(run: Path) -> dict[str, Taxonomy]:
    """The trees of ``list_cells`` by dataset; none where an earlier version evaluated the run.

    Raises:
        SekdError: the run's evaluation is not finished.
    """
    trees = _listing(run).get("trees", {})
    return {
        name: Taxonomy(tree["leaves"], skip=tree["skip"], level_names=tree["level_names"])
        for name, tree in trees.items()
    }


def _listing(run: Path) -> Any:
    file = run / "cells.json"
    if not file.is_file():
        raise SekdError(
            f"{run} has not been evaluated: {file.name} is missing in it. Run "
            f"`python -m sekd.evaluation name={run.name}` (or `make evaluate RUN={run.name}`) first."
        )
    return json.loads(file.read_text())


def _table(part: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        table = pq.read_table(part, columns=columns)
        table.select(columns or SCHEMA.names)
    except (pa.ArrowInvalid, pa.ArrowKeyError, KeyError, OSError) as error:
        raise _not_ours(part, error) from error
    return table


def _not_ours(part: Path, error: Exception) -> SekdError:
    return SekdError(
        f"{part} is no part of kept generations ({first_line(error)}). Move it away and run the evaluation again."
    )


def _row(generation: Generation) -> dict[str, Any]:
    questions = generation.questions
    return {
        "depths": [question.depth for question in questions],
        "levels": [question.level for question in questions],
        "options": [list(question.options) for question in questions],
        "truth": [-1 if question.truth is None else question.truth for question in questions],
        **{name: getattr(generation, name) for name in SCHEMA.names if name not in ASKED},
    }


def _generation(row: dict[str, Any]) -> Generation:
    asked = zip(*(row[name] for name in ASKED), strict=True)
    return Generation(
        sample=row["sample"],
        image=row["image"],
        questions=tuple(Question(d, level, tuple(o), None if truth < 0 else truth) for d, level, o, truth in asked),
        texts=tuple(row["texts"]),
        letter_logprobs=tuple(map(tuple, row["letter_logprobs"])),
        **{name: tuple(row[name]) for name in CALL_COLUMNS},
        wall=row["wall"],
        key=row["key"],
    )
