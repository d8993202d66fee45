"""What a model said, kept: one Parquet row an image asked in one paradigm, from which every score can be recomputed.

A *cell* is one dataset asked of one model in one paradigm. Its folder holds ``part-00000.parquet`` and on; each part
carries the cell's identity in its schema, so the folder says by itself what it belongs to. Parts are written whole
under a temporary name and renamed, so a cut-off run leaves whole parts, and the next one asks only what is missing.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sekd.errors import SekdError
from sekd.questions import Question

METADATA = b"sekd.cell"
SCHEMA = pa.schema(
    {
        "sample": pa.string(),
        "image": pa.string(),  # path relative to the dataset's root
        "depths": pa.list_(pa.int8()),
        "levels": pa.list_(pa.string()),
        "options": pa.list_(pa.list_(pa.string())),
        "truth": pa.list_(pa.int8()),  # index of the true option, -1 where unknown
        "texts": pa.list_(pa.string()),  # the model's words, one entry a call: 1 joint, one a level otherwise
        "letter_logprobs": pa.list_(pa.list_(pa.float32())),  # a level: log-probability of each option's letter
        "prompt_tokens": pa.list_(pa.int32()),  # a call
        "cached_tokens": pa.list_(pa.int32()),
        "new_tokens": pa.list_(pa.int32()),
        "latency": pa.list_(pa.float32()),  # seconds from sending a call to its last token, others being in flight
        "wall": pa.float32(),  # the image's share of the seconds that its part took
    }
)
CALL_COLUMNS = ("prompt_tokens", "cached_tokens", "new_tokens", "latency")


@dataclass(frozen=True)
class Generation:
    """One image asked in one paradigm. Per-call fields have one entry a call, per-level ones one a question.

    ``letter_logprobs[i]`` holds natural logarithms of the model's unrestricted probabilities of the letters of
    question i at its answer position; it is empty where the answer has no such position.
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


@dataclass(frozen=True)
class Cell:
    """What a folder of generations belongs to. ``digest`` tells whether kept generations still answer for it."""

    part: str  # "in_domain" or "unseen"
    tree: str  # the dataset's name
    model: str  # "base", "student", or the name of another student of the run
    seed: str  # which of the model's trainings; "" where there is one
    paradigm: str
    digest: str
    root: str  # the dataset's folder, for the gallery
    facts: dict[str, Any]  # what the digest was made of, and versions: provenance

    @property
    def folder(self) -> Path:
        """Where the cell lies below ``generations/``."""
        return Path(self.tree, *self.model.split("/"), *([self.seed] if self.seed else []), self.paradigm)


def write_part(folder: Path, cell: Cell, generations: Sequence[Generation]) -> None:
    """Add one whole part to a cell's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("part-*.parquet")))
    schema = SCHEMA.with_metadata({METADATA: json.dumps(vars(cell)).encode()})
    table = pa.Table.from_pylist([_row(generation) for generation in generations], schema=schema)
    partial = folder / f".part-{number:05d}.partial"
    pq.write_table(table, partial, compression="zstd")
    partial.rename(folder / f"part-{number:05d}.parquet")


def read_cell(folder: Path) -> tuple[Cell, list[Generation]]:
    """A cell's identity and its generations, ordered by sample, so that cells of one dataset pair up row by row.

    Raises:
        SekdError: the folder holds no part, or a file that is not one.
    """
    parts = sorted(folder.glob("part-*.parquet"))
    if not parts:
        raise SekdError(f"{folder} holds no part-*.parquet: expected the kept generations of one cell")
    generations = [_generation(row) for part in parts for row in _table(part).to_pylist()]
    return read_identity(folder), sorted(generations, key=lambda generation: generation.sample)


def read_identity(folder: Path) -> Cell:
    """What the folder's generations belong to, from its first part's metadata alone."""
    part = min(folder.glob("part-*.parquet"))
    try:
        metadata = pq.read_schema(part).metadata or {}
        return Cell(**json.loads(metadata[METADATA]))
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise _not_ours(part, error) from error


def kept_samples(folder: Path, digest: str) -> set[str] | None:
    """The samples that a cell's folder holds; None where what it holds answers for something else."""
    parts = sorted(folder.glob("part-*.parquet"))
    if parts and read_identity(folder).digest != digest:
        return None
    return {sample for part in parts for sample in _table(part).column("sample").to_pylist()}


def list_cells(run: Path, cells: Sequence[Cell]) -> None:
    """Note which cells a finished evaluation consists of. Written last: a listed cell is whole."""
    folders = [str(Path("generations") / cell.folder) for cell in cells]
    partial = run / ".cells.json.partial"
    partial.write_text(json.dumps(folders, indent=1) + "\n")
    partial.rename(run / "cells.json")


def evaluated_cells(run: Path) -> list[Path]:
    """The folders of the cells that the run's last finished evaluation consists of, in its order.

    Raises:
        SekdError: the run has not been evaluated to the end.
    """
    listed = run / "cells.json"
    if not listed.is_file():
        raise SekdError(
            f"{run} has not been evaluated: {listed.name} is missing in it. Run "
            f"`python -m sekd.evaluation name={run.name}` (or `make evaluate RUN={run.name}`) first."
        )
    return [run / folder for folder in json.loads(listed.read_text())]


def discard(folder: Path) -> None:
    """Remove a cell's parts and nothing else."""
    for part in [*folder.glob("part-*.parquet"), *folder.glob(".part-*.partial")]:
        part.unlink()


def _table(part: Path) -> pa.Table:
    try:
        return pq.read_table(part, columns=SCHEMA.names)
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise _not_ours(part, error) from error


def _not_ours(part: Path, error: Exception) -> SekdError:
    return SekdError(
        f"{part} is no part of kept generations ({str(error).splitlines()[0] if str(error) else error!r}). "
        "Remove its folder and run the evaluation again."
    )


def _row(generation: Generation) -> dict[str, Any]:
    questions = generation.questions
    return {
        "sample": generation.sample,
        "image": generation.image,
        "depths": [question.depth for question in questions],
        "levels": [question.level for question in questions],
        "options": [list(question.options) for question in questions],
        "truth": [-1 if question.truth is None else question.truth for question in questions],
        **{name: getattr(generation, name) for name in SCHEMA.names[6:]},
    }


def _generation(row: dict[str, Any]) -> Generation:
    return Generation(
        sample=row["sample"],
        image=row["image"],
        questions=tuple(_questions(row)),
        texts=tuple(row["texts"]),
        letter_logprobs=tuple(tuple(logprobs) for logprobs in row["letter_logprobs"]),
        **{name: tuple(row[name]) for name in CALL_COLUMNS},
        wall=row["wall"],
    )


def _questions(row: dict[str, Any]) -> Iterable[Question]:
    for depth, level, options, truth in zip(row["depths"], row["levels"], row["options"], row["truth"], strict=True):
        yield Question(depth, level, tuple(options), None if truth < 0 else truth)
