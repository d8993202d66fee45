"""``make preview``: one page with a dozen images, their questions and every prompt. No model is loaded.

The page is one file with the images inside. A model's chat template adds its own markup to the texts shown.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
from omegaconf import MISSING

from sekd.datasets import DataConfig, Dataset, Example, load_dataset
from sekd.datasets.images import data_uri, open_image
from sekd.descent import count_calls
from sekd.entry import entry
from sekd.errors import SekdError
from sekd.models import ModelConfig
from sekd.prompts import Prompter
from sekd.questions import LETTERS

TEMPLATE = Path(__file__).with_name("preview.html.jinja")
SIDE = 480  # pixels, the longest side of an image on the page


@dataclass
class PreviewConfig:
    """What is shown, and where the page is written."""

    data: DataConfig = MISSING
    model: ModelConfig = MISSING
    split: str = "train"
    count: int = 12
    out: str = "runs/preview/page.html"


def page(dataset: Dataset, prompter: Prompter, *, count: int) -> str:
    """The page as HTML. Conditioned prompts show the true names in place of the model's earlier answers.

    Raises:
        SekdError: there is no image to show, or one does not decode.
    """
    if count < 1:
        raise SekdError(f"count={count}: expected at least one image to show")
    data, calls = dataset.config, None
    if data.by_descent:
        calls = count_calls(dataset.taxonomy, roots=dataset.roots, options=data.options, beam=data.beam)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(TEMPLATE.read_text()).render(
        dataset=dataset,
        tree=dataset.taxonomy,
        wording=prompter.wording.name,
        calls=calls,
        letters=LETTERS,
        shown=[_shown(dataset, prompter, example) for example in dataset.examples[:count]],
    )


def _shown(dataset: Dataset, prompter: Prompter, example: Example) -> dict[str, Any]:
    if dataset.config.by_descent:  # which path the model will find is not known: the tree's first leaf stands for it
        questions = dataset.questions_on(example, dataset.taxonomy.leaves[0])
        questions = tuple(replace(question, truth=None) for question in questions)
    else:
        questions = dataset.questions(example)
    answers, steps = [question.truth or 0 for question in questions], range(len(questions))
    prompts = {
        "Joint: every level in one reply": [prompter.joint(questions)],
        "Conditioned: level by level, the answers above known": [
            prompter.conditioned(questions, step, answers) for step in steps
        ],
        "Independent: level by level, no context": [prompter.independent(questions, step) for step in steps],
    }
    image = open_image(dataset.image_path(example))
    image.thumbnail((SIDE, SIDE))
    return {
        "example": example,
        "image": data_uri(image, quality=85),
        "questions": questions,
        "prompts": prompts,
        "reply": prompter.joint_answer(questions, answers)[0],
    }


@entry("preview", PreviewConfig)
def main(config: PreviewConfig) -> None:
    """Write the page and say where it is."""
    dataset = load_dataset(config.data, config.split)
    content = page(dataset, Prompter.named(config.model.wording), count=config.count)
    out = Path(config.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(content, encoding="utf-8")
    for note in dataset.notes:
        print(f"{dataset.name}: {note}")
    print(f"{out}: {min(config.count, len(dataset.examples))} of {len(dataset.examples)} images and their prompts")


if __name__ == "__main__":
    main()
