"""``python -m sekd.embedded.skills runs/demo``: what the student forgot of the embedded base's other skills.

Captions, paths without options and single-level questions, for the base and for every training of the student, through
transformers. The results are written to ``general.json``, as those of lmms-eval's benchmarks are for a real model.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from tqdm import tqdm

from sekd.datasets import load_dataset
from sekd.datasets.base import Dataset, Example
from sekd.datasets.config import DataConfig
from sekd.embedded.kingdoms import IN_DOMAIN, LEVELS, UNSEEN
from sekd.embedded.tiny_vlm import BASE
from sekd.embedded.world import categories
from sekd.errors import SekdError, exit_on_error
from sekd.evaluation.general.outcome import Outcome, write_outcomes
from sekd.evaluation.general.table import print_outcomes
from sekd.evaluation.students import STUDENT, TrainedStudent, find_students, read_base
from sekd.inference.schedule import read_image
from sekd.metrics import paired_difference
from sekd.models import ModelConfig, load_processor, load_vlm
from sekd.prompts import Prompt, Prompter, request
from sekd.questions import LETTERS
from sekd.recent import run_folder

BATCH = 100
METRICS = {
    "caption": "words %",
    "lineage": "names %",
    "single level": "answers %",
}
Task = tuple[Prompt, list[str]]  # a prompt and the words of the correct reply


class SkillTest:
    """The tasks of every skill on one dataset."""

    def __init__(self, dataset: Dataset, model: ModelConfig) -> None:
        self._dataset = dataset
        self._processor = load_processor(model)
        self._processor.tokenizer.padding_side = "left"
        self._prompter = Prompter.named(model.wording)
        self._captions = captions()

    def scores(self, vlm: Any) -> dict[str, np.ndarray]:
        """Skill -> percent of the correct words that each image's reply has at the right position [image]."""
        return {skill: np.concatenate(list(self._batches(vlm, skill))) for skill in METRICS}

    def _batches(self, vlm: Any, skill: str) -> Iterator[np.ndarray]:
        examples = self._dataset.examples
        for start in range(0, len(examples), BATCH):
            batch = examples[start : start + BATCH]
            images = [read_image(self._dataset.image_path(example)) for example in batch]
            rounds = zip(*(self._tasks(skill, example) for example in batch), strict=True)
            yield 100 * np.mean([self._shares(vlm, images, tasks) for tasks in rounds], axis=0)

    def _tasks(self, skill: str, example: Example) -> list[Task]:
        assert example.path is not None, "every image of the world has a label"
        if skill == "caption":
            return [(request("describe"), self._captions[example.path])]
        if skill == "lineage":
            return [(request("lineage"), list(example.path[1:]))]
        questions = self._dataset.questions(example)
        return [
            (self._prompter.independent(questions, step), [LETTERS[question.truth]])  # type: ignore[index]
            for step, question in enumerate(questions)
        ]

    @torch.inference_mode()
    def _shares(self, vlm: Any, images: Sequence[Any], tasks: Sequence[Task]) -> np.ndarray:
        """Share of correct words in each reply [image]."""
        tokenizer = self._processor.tokenizer
        texts = [self._prompter.render(self._processor, prompt) for prompt, _ in tasks]
        inputs = self._processor(text=texts, images=list(images), padding=True, return_tensors="pt")
        length = len(tasks[0][1])
        tokens = vlm.generate(**inputs, max_new_tokens=length, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        replies = tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return np.array([_share(reply.split(), words) for reply, (_, words) in zip(replies, tasks, strict=True)])


def _share(reply: Sequence[str], correct: Sequence[str]) -> float:
    return sum(word in reply[place : place + 1] for place, word in enumerate(correct)) / len(correct)


def captions() -> dict[tuple[str, ...], list[str]]:
    """Path -> the words of its caption: the kingdom and the attributes."""
    return {
        (str(row["kingdom"]), *(str(row[level]) for level in LEVELS[:-1]), str(row["name"])): [
            str(row["kingdom"]),
            *str(row["common_name"]).split(),
        ]
        for row in categories()
    }


def measure_skills(run: Path, datasets: Sequence[Dataset]) -> list[Outcome]:
    """Every skill on every dataset: the base and the mean over the student's seeds. Writes ``general.json``.

    Raises:
        SekdError: the run holds no student, or its base is not the embedded model.
    """
    students = [student for student in find_students(run) if student.name == STUDENT]
    if not students:
        raise SekdError(f"{run} holds no adapter: `make student` trains one")
    model = _embedded_base(students[0])
    outcomes = [
        outcome
        for dataset in tqdm(datasets, unit="tree", dynamic_ncols=True)
        for outcome in _measure(model, students, dataset)
    ]
    write_outcomes(run, outcomes)
    return outcomes


def _measure(model: ModelConfig, students: Sequence[TrainedStudent], dataset: Dataset) -> list[Outcome]:
    test = SkillTest(dataset, model)
    before = test.scores(load_vlm(model, dtype=torch.float32))
    trained = [
        test.scores(PeftModel.from_pretrained(load_vlm(model, dtype=torch.float32), student.adapter).eval())
        for student in students
    ]
    return [
        _outcome(f"{skill}, {dataset.name}", before[skill], np.mean([each[skill] for each in trained], axis=0), metric)
        for skill, metric in METRICS.items()
    ]


def _outcome(task: str, before: np.ndarray, after: np.ndarray, metric: str) -> Outcome:
    change = paired_difference(before, after)
    return Outcome(task, metric, float(before.mean()), float(after.mean()), samples=len(before), **change)


def _embedded_base(student: TrainedStudent) -> ModelConfig:
    model = read_base(student.adapter.parent)
    if Path(model.path).resolve() != BASE.resolve():
        raise SekdError(
            f"{student.adapter} was not trained from the embedded model: name benchmarks for another model, as in "
            "`make general TASKS=mmbench_en_dev_static,mmmu_val`"
        )
    return model


def kingdoms(root: Path, split: str = "test") -> list[Dataset]:
    """One dataset a kingdom of the world on disk; those that are distilled on come first.

    Raises:
        SekdError: there is no world at ``root``.
    """
    return [
        load_dataset(
            DataConfig(
                name=kingdom,
                format="inat",
                root=str(root),
                splits={split: f"{split}.json"},
                levels=["kingdom", *LEVELS],
                skip=1,
                within={"kingdom": [kingdom]},
            ),
            split,
        )
        for kingdom in (*IN_DOMAIN, *UNSEEN)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sekd.embedded.skills", description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, help="as runs/demo; by default the newest student's")
    parser.add_argument("--world", type=Path, default=Path("data/demo"), help="where `make world` wrote the images")
    given = parser.parse_args()
    torch.set_num_threads(1)  # more threads do not pay for a model this small
    with exit_on_error():
        print_outcomes(measure_skills(run_folder(given.run, whole_group=True), kingdoms(given.world)))


if __name__ == "__main__":
    main()
