"""Images in, paths with probabilities out."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sekd.datasets.images import SUFFIXES
from sekd.errors import SekdError
from sekd.evaluation.calibration import among_offered
from sekd.evaluation.predict.narrowing import Answer, Decision, NarrowingStep, narrow
from sekd.inference.requests import UnreadableImageError
from sekd.inference.schedule import Conversation
from sekd.inference.strategies import Strategies, Subject
from sekd.taxonomy import Names, Taxonomy


@dataclass(frozen=True)
class Prediction:
    """An image's path, coarse to fine, and how many passes it took; ``fault`` says why there is none."""

    image: Path
    levels: tuple[Decision, ...]
    passes: int
    fault: str = ""

    @property
    def probability(self) -> float:
        """Of the whole path: the product over its levels."""
        product = 1.0
        for level in self.levels:
            product *= level.probability
        return product


def find_images(paths: Iterable[Path]) -> list[Path]:
    """The files as given, and every image below the folders among them, in stable order.

    Raises:
        SekdError: a path does not exist, or there is no image.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise SekdError(f"{path} does not exist: expected an image or a folder of images")
        inside = (
            sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        )
        found += inside
    if not found:
        raise SekdError(f"no image found: expected files that end in {', '.join(SUFFIXES)}")
    return found


def predict(
    engine: Any,
    strategies: Strategies,
    images: Sequence[Path],
    taxonomy: Taxonomy,
    *,
    roots: Sequence[Names],
    most: int,
) -> Iterator[Prediction]:
    """Predictions in the order in which they are ready.

    Args:
        roots: the nodes to start below. Of several, a path is found below each and the most probable one is kept: the
            model was never asked to choose between trees. The root's probability is its path's share of all.
        most: most options a question.
    """
    yield from engine.drive(_conversation(strategies, image, taxonomy, roots=roots, most=most) for image in images)


def _conversation(
    strategies: Strategies, image: Path, taxonomy: Taxonomy, *, roots: Sequence[Names], most: int
) -> Conversation[Prediction]:
    try:
        found = []
        for root in roots:
            found.append((yield from _below(strategies, image, taxonomy, root=root, most=most)))
    except UnreadableImageError as error:
        return Prediction(image, (), 0, fault=str(error))
    if len(found) == 1:
        return found[0]
    certainty = [0.0 if math.isnan(path.probability) else path.probability for path in found]
    best = certainty.index(max(certainty))
    share = certainty[best] / sum(certainty) if sum(certainty) else math.nan
    level = Decision(taxonomy.level_name(taxonomy.skip - 1), roots[best][-1], share)
    return Prediction(image, (level, *found[best].levels), sum(path.passes for path in found))


def _below(
    strategies: Strategies, image: Path, taxonomy: Taxonomy, *, root: Names, most: int
) -> Conversation[Prediction]:
    """The path below one root."""
    narrowing = narrow(taxonomy, root=root, most=most, seed=image.name)
    try:
        asked = next(narrowing)
        while True:
            answers = yield from _ask(strategies, image, asked)
            asked = narrowing.send(answers)
    except StopIteration as end:
        levels, passes = end.value
        return Prediction(image, tuple(levels), passes)


def _ask(strategies: Strategies, image: Path, asked: NarrowingStep) -> Conversation[list[Answer]]:
    answers = yield from strategies.guided(Subject(image, str(image.resolve()), asked.questions), asked.decided)
    found = []
    for question, result, chosen in zip(
        asked.questions[len(asked.decided) :], answers.results, answers.chosen, strict=True
    ):
        assert chosen is not None
        logprobs = strategies.letter_logprobs(question, result)
        found.append(Answer(chosen, among_offered(logprobs) if logprobs else (math.nan,) * len(question.options)))
    return found
