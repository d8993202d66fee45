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
from sekd.inference.strategies import Answers, Strategies, Subject
from sekd.store import Layout, as_float32, build_rows
from sekd.store.schema import PATH_LOGPROB
from stage1_teacher.stats import Stats
from stage1_teacher.teacher_modes import OUTSIDE, TeacherMode, subject

Report = Callable[[Stats], None]
Answered = tuple[Subject, Answers] | str  # the questions about an image and the answers, or why there are none


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
    conversations = (_about(place, strategies, dataset, mode) for place in places)
    answered: dict[int, Answered] = {}
    with closing(engine.drive(conversations)) as finished:
        for place, answers in finished:
            answered[place] = answers
            report(_stats(answers, dataset.examples[place].image.name))
    asked = [dataset.examples[place] for place in places]
    return assemble(dataset, asked, [answered[place] for place in places], layout)


def _about(
    place: int, strategies: Strategies, dataset: Dataset, mode: TeacherMode
) -> Conversation[tuple[int, Answered]]:
    """The conversation about one image, which may turn out to be unreadable, or outside the tree."""
    try:
        about = yield from subject(strategies, dataset, place)
        return place, (about, (yield from mode(strategies, dataset, place, about)))
    except UnreadableImageError as error:
        return place, error.reason


def _stats(answered: Answered, image: str) -> Stats:
    """What one image adds to the count."""
    if isinstance(answered, str):
        if answered.startswith(OUTSIDE):
            return Stats(images=1, outside=1)
        return Stats(images=1, skipped=1, reasons=(f"{image} ({answered})",))
    results = answered[1].results
    return Stats(
        images=1,
        steps=len(results),
        prompt_tokens=sum(result.prompt_tokens for result in results),
        cached_tokens=sum(result.cached_tokens for result in results),
        letter_mass=sum(result.letter_mass for result in results),
    )


def assemble(dataset: Dataset, examples: Sequence[Example], answered: Sequence[Answered], layout: Layout) -> Shard:
    """Rows in order of example, then step. Truth goes into its own column here and nowhere else."""
    columns: dict[str, list] = {name: [] for name in layout.columns}
    hidden: list[np.ndarray] = []
    skipped: dict[str, str] = {}
    for example, each in zip(examples, answered, strict=True):
        if isinstance(each, str):
            skipped[example.id] = each
            continue
        about, answers = each
        for row in _rows(example, about, answers):
            for name, value in row.items():
                columns[name].append(value)
        hidden += [result.hidden for result in answers.results if result.hidden is not None]
    return Shard(build_rows(layout, columns), _stack(hidden, layout), skipped)


def _rows(example: Example, about: Subject, answers: Answers) -> Iterator[dict[str, Any]]:
    questions = about.questions
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
            **({PATH_LOGPROB: about.path_logprobs[step]} if about.path_logprobs else {}),
        }


def _stack(hidden: list[np.ndarray], layout: Layout) -> np.ndarray | None:
    if not layout.layers:
        return None
    if not hidden:
        return np.empty((0, len(layout.layers), layout.hidden_size), np.float32)
    computed = {"uint16": "bfloat16"}.get(hidden[0].dtype.name, hidden[0].dtype.name)
    stacked = np.stack(hidden)
    return stacked if computed == layout.hidden_dtype else as_float32(stacked, computed)
