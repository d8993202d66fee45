"""One shard: its examples become conversations, and their answers the rows and hidden states of the store."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sekd.datasets import Dataset, Example
from sekd.inference.engine import Engine
from sekd.inference.requests import UnreadableImageError
from sekd.inference.schedule import Conversation
from sekd.inference.strategies import Answers, Strategies
from sekd.store import Layout, as_float32, build_rows
from sekd.store.schema import COLUMNS
from stage1_teacher.stats import Stats
from stage1_teacher.teacher_modes import TeacherMode

Report = Callable[[Stats], None]
Answered = Answers | str  # the answers about an image, or why there are none


@dataclass(frozen=True)
class Shard:
    """What ``Store.write_shard`` takes: rows, hidden states [rows, layers, hidden] or None, and what was left out."""

    rows: pa.Table
    hidden: np.ndarray | None
    skipped: dict[str, str]


def ask_shard(
    engine: Engine,
    strategies: Strategies,
    dataset: Dataset,
    places: range,
    *,
    mode: TeacherMode,
    layout: Layout,
    report: Report,
) -> Shard:
    """Ask about every example of one shard: those in ``places`` of the dataset's.

    The engine starts empty, so a shard's bytes depend on the shard alone: not on what was asked before it, nor by whom.
    """
    engine.reset()
    conversations = (_numbered(place, mode(strategies, dataset, place)) for place in places)
    answered: dict[int, Answered] = {}
    with closing(engine.drive(conversations)) as finished:
        for place, answers in finished:
            answered[place] = answers
            report(_stats(answers, dataset.examples[place].image.name))
    asked = [dataset.examples[place] for place in places]
    return assemble(dataset, asked, [answered[place] for place in places], layout)


def _numbered(place: int, conversation: Conversation[Answers]) -> Conversation[tuple[int, Answered]]:
    """The conversation about one image, which may turn out to be unreadable."""
    try:
        return place, (yield from conversation)
    except UnreadableImageError as error:
        return place, error.reason


def _stats(answered: Answered, image: str) -> Stats:
    """What one image adds to the count."""
    if isinstance(answered, str):
        return Stats(images=1, skipped=1, reasons=(f"{image} ({answered})",))
    results = answered.results
    return Stats(
        images=1,
        steps=len(results),
        prompt_tokens=sum(result.prompt_tokens for result in results),
        cached_tokens=sum(result.cached_tokens for result in results),
        letter_mass=sum(result.letter_mass for result in results),
    )


def assemble(dataset: Dataset, examples: Sequence[Example], answered: Sequence[Answered], layout: Layout) -> Shard:
    """Rows in order of example, then step. Truth goes into its own column here and nowhere else."""
    columns: dict[str, list] = {name: [] for name in COLUMNS}
    hidden: list[np.ndarray] = []
    skipped: dict[str, str] = {}
    for example, answers in zip(examples, answered, strict=True):
        if isinstance(answers, str):
            skipped[example.id] = answers
            continue
        for row in _rows(example, dataset.questions(example), answers):
            for name, value in row.items():
                columns[name].append(value)
        hidden += [result.hidden for result in answers.results if result.hidden is not None]
    return Shard(build_rows(layout, columns), _stack(hidden, layout), skipped)


def _rows(example: Example, questions: Sequence[Any], answers: Answers) -> Iterator[dict[str, Any]]:
    for step, (question, answer, result) in enumerate(zip(questions, answers.chosen, answers.results, strict=True)):
        yield {
            "sample": example.id,
            "image": example.image.as_posix(),
            "step": step,
            "n_steps": len(questions),
            "depth": question.depth,
            "level": question.level,
            "options": list(question.options),
            "answer": answer,
            "truth": -1 if question.truth is None else question.truth,
            "topk_ids": result.topk_ids,
            "topk_logprobs": result.topk_logprobs,
            "tail_logprob": result.tail_logprob,
        }


def _stack(hidden: list[np.ndarray], layout: Layout) -> np.ndarray | None:
    if not layout.layers:
        return None
    if not hidden:
        return np.empty((0, len(layout.layers), layout.hidden_size), np.float32)
    computed = {"uint16": "bfloat16"}.get(hidden[0].dtype.name, hidden[0].dtype.name)
    stacked = np.stack(hidden)
    return stacked if computed == layout.hidden_dtype else as_float32(stacked, computed)
