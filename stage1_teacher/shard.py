"""One shard: its examples become conversations, and their answers the rows and hidden states of the store."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sekd.datasets import Dataset, Example
from sekd.inference.engine import Engine
from sekd.inference.paradigms import Answers, Asker
from sekd.inference.requests import UnreadableImageError
from sekd.store import Layout, as_float32, build_rows
from stage1_teacher.tally import Tally
from stage1_teacher.teaching import Lesson, Teaching

Report = Callable[[Tally], None]
Outcome = Answers | str  # the answers about an image, or why there are none


@dataclass(frozen=True)
class Shard:
    """What ``Store.write_shard`` takes: rows, hidden states [rows, layers, hidden] or None, and what was left out."""

    rows: pa.Table
    hidden: np.ndarray | None
    skipped: dict[str, str]


def ask_shard(
    engine: Engine,
    asker: Asker,
    dataset: Dataset,
    places: range,
    *,
    teaching: Teaching,
    layout: Layout,
    report: Report,
) -> Shard:
    """Ask about every example of one shard: those in ``places`` of the dataset's.

    The engine starts empty, so a shard's bytes depend on the shard alone: not on what was asked before it, nor by whom.
    """
    engine.reset()
    conversations = (converse(teaching(asker, dataset, place), place) for place in places)
    outcomes: dict[int, Outcome] = {}
    with closing(engine.drive(conversations)) as finished:
        for place, outcome in finished:
            outcomes[place] = outcome
            report(tally(outcome, dataset.examples[place].image.name))
    asked = [dataset.examples[place] for place in places]
    return assemble(dataset, asked, [outcomes[place] for place in places], layout)


def converse(lesson: Lesson, place: int) -> Generator[Any, Any, tuple[int, Outcome]]:
    """The conversation about one image, which may turn out to be unreadable."""
    try:
        answers = yield from lesson
    except UnreadableImageError as error:
        return place, error.reason
    return place, answers


def tally(outcome: Outcome, image: str) -> Tally:
    """What one image adds to the count."""
    if isinstance(outcome, str):
        return Tally(images=1, skipped=1, reasons=(f"{image} ({outcome})",))
    return Tally(
        images=1,
        steps=len(outcome.results),
        prompt_tokens=sum(result.prompt_tokens for result in outcome.results),
        cached_tokens=sum(result.cached_tokens for result in outcome.results),
        letter_mass=sum(result.letter_mass for result in outcome.results),
    )


def assemble(dataset: Dataset, examples: Sequence[Example], outcomes: Sequence[Outcome], layout: Layout) -> Shard:
    """Rows in order of example, then step. Truth goes into its own column here and nowhere else."""
    columns: dict[str, list] = {field: [] for field in FIELDS}
    hidden: list[np.ndarray] = []
    skipped: dict[str, str] = {}
    for example, outcome in zip(examples, outcomes, strict=True):
        if isinstance(outcome, str):
            skipped[example.id] = outcome
            continue
        for row in _rows(example, dataset.questions(example), outcome):
            for field, value in zip(FIELDS, row, strict=True):
                columns[field].append(value)
        hidden += [result.hidden for result in outcome.results if result.hidden is not None]
    arrays: dict[str, Any] = dict(columns)
    for field in ("topk_ids", "topk_logprobs"):
        arrays[field] = np.stack(columns[field]) if columns[field] else np.empty((0, layout.k))
    return Shard(build_rows(layout, arrays), _stack(hidden, layout), skipped)


FIELDS = (
    "sample",
    "image",
    "step",
    "n_steps",
    "depth",
    "level",
    "options",
    "answer",
    "truth",
    "topk_ids",
    "topk_logprobs",
    "tail_logprob",
)


def _rows(example: Example, questions: Sequence[Any], answers: Answers) -> Generator[tuple, None, None]:
    for step, (question, answer, result) in enumerate(zip(questions, answers.chosen, answers.results, strict=True)):
        yield (
            example.id,
            example.image.as_posix(),
            step,
            len(questions),
            question.depth,
            question.level,
            list(question.options),
            answer,
            -1 if question.truth is None else question.truth,
            result.topk_ids,
            result.topk_logprobs,
            result.tail_logprob,
        )


def _stack(hidden: list[np.ndarray], layout: Layout) -> np.ndarray | None:
    if not layout.layers:
        return None
    if not hidden:
        return np.empty((0, len(layout.layers), layout.hidden_size), np.float32)
    computed = {"uint16": "bfloat16"}.get(hidden[0].dtype.name, hidden[0].dtype.name)
    stacked = np.stack(hidden)
    return stacked if computed == layout.hidden_dtype else as_float32(stacked, computed)
