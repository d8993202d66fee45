"""``python -m sekd.embedded.skills runs/demo``: what the student forgot of the embedded base's other skills.

Captions, paths without options and single-level questions, for the base and for every training of the student, through
transformers. The results are written to ``general.json``, as those of lmms-eval's benchmarks are for a real model.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from tqdm import tqdm

from sekd.datasets import load_dataset
from sekd.datasets.base import Dataset, Example
from sekd.datasets.config import DataConfig
from sekd.embedded import BASE
from sekd.embedded.kingdoms import IN_DOMAIN, LEVELS, UNSEEN
from sekd.embedded.world import categories_by_path
from sekd.errors import SekdError, exit_on_error
from sekd.evaluation.general.outcome import Outcome, print_outcomes, write_outcomes
from sekd.evaluation.students import STUDENT, find_students, read_base
from sekd.inference.schedule import read_image
from sekd.metrics import paired_difference
from sekd.models import ModelConfig, load_processor, load_vlm
from sekd.prompts import Prompt, Prompter, request
from sekd.questions import LETTERS
from sekd.recent import run_folder

BATCH = 100
METRICS = {"caption": "words %", "lineage": "names %", "single level": "answers %"}
Task = tuple[Prompt, list[str]]  # a prompt and the words of the correct reply


class SkillTest:
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
    return {path: [path[0], *row["common_name"].split()] for path, row in categories_by_path().items()}


def measure_skills(run: Path, datasets: Sequence[Dataset]) -> list[Outcome]:
    """Every skill on every dataset: the base and the mean over the student's seeds. Writes ``general.json``.

    Raises:
        SekdError: the run holds no student, or its base is not the embedded model.
    """
    students = [student for student in find_students(run) if student.name == STUDENT]
    if not students:
        raise SekdError(f"{run} holds no adapter: `make student` trains one")
    model = read_base(students[0].adapter.parent)
    if Path(model.path).resolve() != BASE.resolve():
        raise SekdError(
            f"{students[0].adapter} was not trained from the embedded model: name benchmarks for another model, as in "
            "`make general TASKS=mmbench_en_dev_static,mmmu_val`"
        )
    outcomes = []
    for dataset in tqdm(datasets, unit="tree", dynamic_ncols=True):
        test = SkillTest(dataset, model)
        base = test.scores(load_vlm(model, dtype=torch.float32))
        trained = [
            test.scores(PeftModel.from_pretrained(load_vlm(model, dtype=torch.float32), student.adapter).eval())
            for student in students
        ]
        for skill, metric in METRICS.items():
            before, after = base[skill], np.mean([scores[skill] for scores in trained], axis=0)
            change, task = paired_difference(before, after), f"{skill}, {dataset.name}"
            means = float(before.mean()), float(after.mean())
            outcomes.append(Outcome(task, metric, *means, samples=len(before), **change))
    write_outcomes(run, outcomes)
    return outcomes


def kingdoms(root: Path, split: str = "test") -> list[Dataset]:
    """One dataset a kingdom of the world on disk; those that are distilled on come first."""
    inat = DataConfig("", "inat", str(root), {split: f"{split}.json"}, levels=["kingdom", *LEVELS], skip=1)
    names = (*IN_DOMAIN, *UNSEEN)
    return [load_dataset(replace(inat, name=name, within={"kingdom": [name]}), split) for name in names]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sekd.embedded.skills", description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, help="as runs/demo; by default the newest student's")
    parser.add_argument("--world", type=Path, default=Path("data/demo"), help="where `make world` wrote the images")
    given = parser.parse_args()
    torch.set_num_threads(1)  # more threads do not speed up a model this small
    with exit_on_error():
        print_outcomes(measure_skills(run_folder(given.run, whole_group=True), kingdoms(given.world)))


if __name__ == "__main__":
    main()
