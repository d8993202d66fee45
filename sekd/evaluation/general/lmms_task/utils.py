"""A taxonomy benchmark for lmms-eval: all levels of an image's path asked as multiple-choice questions in one prompt.

The exported folder is self-contained: ``questions.jsonl`` holds one image a line, ``images`` leads to the image files,
and ``taxonomy_scoring/`` holds the rules by which replies are read and scored. It needs lmms-eval, Pillow and numpy.
"""

import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

FOLDER = Path(__file__).parent
sys.path.append(str(FOLDER))  # lmms-eval loads this file by its path, outside of any package

from sekd.answers import parse_joint  # noqa: E402
from sekd.metrics import METRICS, parse_failures, per_path  # noqa: E402
from sekd.questions import Question  # noqa: E402

# Used by the task file, which cannot hold a path relative to itself.
DATASET = {"data_files": {"test": str(FOLDER / "questions.jsonl")}}
Doc = dict[str, Any]


def doc_to_visual(doc: Doc) -> list[Image.Image]:
    """The image rotated by its EXIF orientation."""
    with Image.open(FOLDER / "images" / doc["image"]) as image:
        image.load()
        try:
            return [ImageOps.exif_transpose(image).convert("RGB")]
        except Exception:  # damaged EXIF may raise any error, while the pixels are intact
            return [image.convert("RGB")]


def doc_to_text(doc: Doc, lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    """The prompt for models that take an image and a text; ``doc_to_messages`` is for all others."""
    return "\n\n".join(part for part in (doc["system"], doc["prompt"]) if part)


def doc_to_messages(doc: Doc, lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    image = {"type": "image", "url": doc_to_visual(doc)[0]}
    messages = [{"role": "user", "content": [image, {"type": "text", "text": doc["prompt"]}]}]
    if doc["system"]:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": doc["system"]}]})
    return messages


def doc_to_target(doc: Doc) -> str:
    return " > ".join(name for name in _names(doc, doc["truth"]) if name is not None)


def process_results(doc: Doc, results: list[str]) -> dict[str, Any]:
    """The five metrics of one reply in percent, and which of its answers did not parse."""
    questions = [
        Question(depth, level, tuple(options), truth)
        for depth, (level, options, truth) in enumerate(zip(doc["levels"], doc["options"], doc["truth"], strict=True))
    ]
    predicted = _names(doc, parse_joint(results[0], questions))
    scores = per_path([_names(doc, doc["truth"])], [predicted])
    return {**{metric: 100 * float(scores[metric][0]) for metric in METRICS}, "unparsed": predicted}


def unparsed(paths: list[list[str | None]]) -> float:
    return parse_failures(paths)


def _names(doc: Doc, choices: list[int | None]) -> list[str | None]:
    pairs = zip(doc["options"], choices, strict=True)
    return [None if choice is None else options[choice] for options, choice in pairs]
