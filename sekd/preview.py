"""``make preview``: one page with a dozen images, their questions and every prompt, before anything is paid for.

The page is whole in itself: images are inside, nothing is fetched. No model is loaded; its chat template puts its own
marks around the words shown.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import jinja2
from omegaconf import MISSING

from sekd.datasets import DataConfig, Dataset, Example, load_dataset
from sekd.datasets.images import open_image
from sekd.entry import entry
from sekd.errors import SekdError
from sekd.models import ModelConfig
from sekd.prompts import Prompt, Prompter
from sekd.questions import Question

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


@dataclass(frozen=True)
class Shown:
    """One image on the page."""

    example: Example
    image: str  # as a data URL
    questions: tuple[Question, ...]
    prompts: dict[str, list[Prompt]] = field(default_factory=dict)


def page(dataset: Dataset, prompter: Prompter, *, count: int) -> str:
    """The page as HTML.

    Conditioned prompts need the answers above, which only a model gives; the true names stand for them.

    Raises:
        SekdError: there is no image to show, or one does not decode.
    """
    if count < 1:
        raise SekdError(f"count={count}: expected at least one image to show")
    shown = [_shown(dataset, prompter, example) for example in dataset.examples[:count]]
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(TEMPLATE.read_text()).render(
        dataset=dataset,
        wording=prompter.wording.name,
        shown=shown,
        levels=_levels(dataset),
        answer=prompter.joint_answer(shown[0].questions, _stand_ins(shown[0].questions))[0],
    )


def _shown(dataset: Dataset, prompter: Prompter, example: Example) -> Shown:
    questions = dataset.questions(example)
    answers, steps = _stand_ins(questions), range(len(questions))
    prompts = {
        "Joint: every level in one reply": [prompter.joint(questions)],
        "Conditioned: level by level, the answers above known": [
            prompter.conditioned(questions, step, answers) for step in steps
        ],
        "Independent: level by level, no context": [prompter.independent(questions, step) for step in steps],
    }
    return Shown(example, _data_url(dataset.image_path(example)), questions, prompts)


def _stand_ins(questions: Sequence[Question]) -> list[int]:
    return [question.truth or 0 for question in questions]


def _levels(dataset: Dataset) -> list[dict[str, Any]]:
    """Each level asked about, with how many names stand at it."""
    tree = dataset.taxonomy
    return [
        {"name": tree.level_name(depth), "nodes": len(tree.nodes(depth)), "names": tree.distinct_names(depth)}
        for depth in range(tree.skip, tree.depth)
    ]


def _data_url(path: Path) -> str:
    image = open_image(path)
    image.thumbnail((SIDE, SIDE))
    stream = BytesIO()
    image.save(stream, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


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
