"""Calibration and errors: how sure the answers are, which names are mistaken, and images with their answers."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from sekd.datasets.images import DECODE_ERRORS, decode
from sekd.evaluation.confusion import CHANGES
from sekd.evaluation.report import plots
from sekd.evaluation.report.document import Case, PathStep, Section, Table
from sekd.evaluation.report.sections import base_and_student, name_of, style_of
from sekd.evaluation.table import trees

LARGEST = 320  # pixels on an image's longer side: sharp at the size shown, on a dense screen too
SMALLEST = 160  # smaller images are enlarged, so that every browser shows the same smooth edges


def mistakes(scores: dict[str, Any]) -> Section | None:
    """Which names are mistaken for which. None where nothing was mistaken."""
    tables = []
    for _, tree, models in trees(scores):
        cells = [row for row in base_and_student(models) if row[2]["mistakes"]]
        if cells:
            pairs = [(each["level"], each["true"], each["answered"]) for each in cells[0][2]["mistakes"]]
            counts = [[f"{e['mistaken']} of {e['offered']}" for e in cell["mistakes"]] for _, _, cell in cells]
            columns = ("level", "true", "answered", *(name_of(model, way) for model, way, _ in cells))
            data = [(*pair, *each) for pair, *each in zip(pairs, *counts, strict=True)]
            tables.append(Table(f"Commonest mistaken pairs, {tree}", columns, data))
    text = [
        'The pairs that are mistaken most often over all ways of asking, a few a level. "8 of 16": of the 16 '
        "questions that offered both names, 8 were answered with the wrong one of the two. Of a student that was "
        "trained several times, the first training is counted."
    ]
    return Section("mistakes", "Commonest mistakes", text, tables) if tables else None


def calibration(scores: dict[str, Any]) -> Section | None:
    """Is an answer right as often as its probability says? None where no image's truth is known."""
    figures, silent = [], []
    for _, tree, models in trees(scores):
        found = [(name_of(*row[:2]), style_of(*row[:2]), row[2]["calibration"]) for row in base_and_student(models)]
        silent += [
            f"{name} on {tree} ({each['without']} answers without it, {each['unread']} unread)"
            for name, _, each in found
            if not each["answers"] and each["without"] + each["unread"]
        ]
        panels = {
            f"{name}: ECE {each['error']:.1f} points": (each["bins"], style)
            for name, style, each in found
            if each["answers"]
        }
        if panels:
            title = f"Reliability of the answer letter, {tree}"
            figures.append(
                Table(
                    title,
                    ("way of asking", "ECE, points", "answers", "answers without a confidence", "answers unread"),
                    [(name, e["error"], e["answers"], e["without"], e["unread"]) for name, _, e in found],
                    "A mark below the diagonal is overconfident, above it underconfident; its area shows how many "
                    "answers it holds. Compare the base in one pass with the student.",
                    plots.svg(plots.reliability(panels), title),
                )
            )
    text = [
        "Confidence is the probability of the answered letter among the offered ones at the answer position. The "
        "answers of a calibrated model are right as often as their confidence says: its marks lie on the dotted "
        "diagonal. ECE, the expected calibration error, is the mean distance from it, weighted by the answers of each "
        "mark. Of a student that was trained several times, the first training is shown."
    ]
    if silent:
        text.append(f"No answer has a confidence, so there is no panel, for {'; '.join(silent)}.")
    return Section("calibration", "Calibration", text, figures) if figures or silent else None


def cases(scores: dict[str, Any], roots: Mapping[str, Path]) -> Section | None:
    """The paper's Figure 5 for these models: images with their answers. None where no image's truth is known.

    Args:
        roots: tree, as ``trees`` names it -> the folder that its images' paths start from.
    """
    shown: list[Case] = []
    counts: list[tuple[str | int, ...]] = []
    ways: dict[str, None] = {}
    for _, tree, models in trees(scores):
        for model, way, cell in base_and_student(models):
            found = cell.get("from_base_joint")
            if found:
                ways[name_of(model, way)] = None
                counts.append((tree, *(found[name]["n"] for name, _ in CHANGES.values())))
                for name, _ in CHANGES.values():
                    title = f"{tree}: {name.replace('_', ' ')}"
                    shown += [_case(title, each, roots[tree]) for each in found[name]["examples"]]
    title = "What became of the base's one-pass answers, images"
    table = Table(title, ("tree", *(name.replace("_", " ") for name, _ in CHANGES.values())), counts)
    text = [
        f"Whole paths before ({name_of('base', 'joint')}) and after ({', '.join(ways)}). Images are taken at even "
        "distances from all of their kind, not by how good they look. A right node carries a tick and the word right, "
        "a wrong one a cross, a wavy line and the word wrong."
    ]
    return Section("cases", "Failure and repair", text, [table], shown) if counts else None


def _case(title: str, example: dict[str, Any], root: Path) -> Case:
    levels, truth = example["levels"], example["true"]
    image = _embed(root / example["image"])
    words = f"Image {example['sample']}: {', '.join(map(' '.join, zip(levels, truth, strict=True)))}."
    paths = {"True path": [PathStep(level, name, None) for level, name in zip(levels, truth, strict=True)]}
    for model, answers in example["answers"].items():
        for way, names in answers.items():
            paths[name_of(model, way)] = _steps(levels, truth, names)
    missing = f"The image {example['image']} was not found below {root}."
    return Case(f"{title} ({example['sample']})", image, words if image else missing, paths)


def _steps(levels: Sequence[str], truth: Sequence[str], names: Sequence[str | None]) -> list[PathStep]:
    answered = zip(levels, truth, names, strict=True)
    return [PathStep(level, name or "no readable answer", name == right) for level, right, name in answered]


def _embed(file: Path) -> str | None:
    """The image as a data URI; None where it is missing or is no image."""
    try:
        picture = decode(file)
    except DECODE_ERRORS:
        return None
    longest = max(picture.size)
    scale = LARGEST / longest if longest > LARGEST else max(1.0, SMALLEST / longest)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    buffer = io.BytesIO()
    picture.resize((width, height), Image.Resampling.LANCZOS).save(buffer, format="JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
