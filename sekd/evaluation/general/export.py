"""``make lmms-task DATA=inat``: a dataset's questions as a task of lmms-eval, for any model and without this code.

Writes a folder that lmms-eval takes as ``--include_path``: the task, its questions as JSON lines, a link to the images,
and copies of the modules that read and score the replies, so that the scores are those of ``make evaluate``.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import MISSING

import sekd
from sekd.datasets import DataConfig, Dataset, Example, load_dataset
from sekd.entry import entry
from sekd.errors import SekdError
from sekd.models import ModelConfig
from sekd.prompts import Prompter

TEMPLATES = Path(__file__).with_name("lmms_task")
SCORING = "taxonomy_scoring"  # the copied modules' package
MODULES = ("errors", "tree_files", "taxonomy", "questions", "answers", "metrics")


@dataclass
class ExportConfig:
    data: DataConfig = MISSING
    model: ModelConfig = MISSING
    split: str = "test"
    out: str = "runs/lmms/task"


def export(dataset: Dataset, prompter: Prompter, out: Path) -> str:
    """Write the task's folder and return the task's name.

    Raises:
        SekdError: an image has no label at any level, or ``out/images`` leads elsewhere.
    """
    rows = [_row(dataset, prompter, example) for example in dataset.examples]
    (out / SCORING).mkdir(parents=True, exist_ok=True)
    # A link, so that images are not copied and paths do not depend on the machine.
    link = out / "images"
    if not link.is_symlink() and link.exists():
        raise SekdError(f"{link} exists and is no link: move it away, or choose another out=")
    link.unlink(missing_ok=True)
    link.symlink_to(dataset.root.resolve(), target_is_directory=True)
    modules = {out / SCORING / f"{name}.py": Path(sekd.__path__[0], f"{name}.py") for name in MODULES}
    for copy, module in {**modules, out / "utils.py": TEMPLATES / "utils.py"}.items():
        copy.write_text(module.read_text(encoding="utf-8").replace("from sekd.", f"from {SCORING}."), encoding="utf-8")
    (out / SCORING / "__init__.py").write_text("")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (out / "questions.jsonl").write_text(lines, encoding="utf-8")
    # A token is at least one byte, so this is at least twice the longest reply.
    replies = (prompter.longest_answer(dataset.questions(example)) for example in dataset.examples)
    longest = 64 + 2 * max(len(reply.encode()) for reply in replies)
    task = f"taxonomy_{dataset.name}"
    text = (TEMPLATES / "task.yaml").read_text(encoding="utf-8").format(task=task, max_new_tokens=longest)
    (out / f"{task}.yaml").write_text(text, encoding="utf-8")  # last: without it lmms-eval finds no task
    return task


def _row(dataset: Dataset, prompter: Prompter, example: Example) -> dict[str, Any]:
    questions = dataset.questions(example)
    if all(question.truth is None for question in questions):
        raise SekdError(f"data {dataset.name}: image {example.image} has no label to score a reply by; choose a split")
    text = {message["role"]: message["content"][-1]["text"] for message in prompter.joint(questions).messages}
    return {
        "id": example.id,
        "image": example.image.as_posix(),
        "system": text.get("system", ""),
        "prompt": text["user"],
        "levels": [question.level for question in questions],
        "options": [list(question.options) for question in questions],
        "truth": [question.truth for question in questions],
    }


def load(data: DataConfig, split: str) -> Dataset:
    """The dataset with questions about its labels, by which replies are scored; a ``SekdError`` where it has none."""
    if not data.labelled:
        raise SekdError(f"data {data.name} has no labels to score replies by: DATA=… exports labelled data")
    return load_dataset(replace(data, questions="labels"), split)


@entry("lmms_task", ExportConfig)
def main(config: ExportConfig) -> None:
    dataset = load(config.data, config.split)
    out = Path(config.out)
    task = export(dataset, Prompter.named(config.model.wording), out)
    for note in dataset.notes:
        print(f"{dataset.name}: {note}")
    print(f"{out}: {len(dataset.examples)} images; `python -m lmms_eval --include_path {out} --tasks {task} --model …`")


if __name__ == "__main__":
    main()
