"""Does eval tasks: generates answers on an engine and stores them with their cost, part by part."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sekd.answers import letter_places
from sekd.datasets.base import Dataset, Example
from sekd.errors import SekdError
from sekd.evaluation.eval_tasks import EvalTask
from sekd.evaluation.generations import Generation, add_refused, write_part
from sekd.inference.requests import StepResult, UnreadableImageError, UnusableImageError
from sekd.inference.schedule import Conversation
from sekd.inference.strategies import Answers, Strategies, Subject
from sekd.questions import LETTERS, Question


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read or that the model refused, of which dataset, and why."""

    tree: str
    sample: str
    reason: str
    refused: bool = False


def generate(
    task: EvalTask,
    *,
    engine: Any,
    strategies: Strategies,
    part_size: int,
    unreadable_share: float,
    done: Callable[[int], None],
) -> list[Unreadable]:
    """Generate and store the task's answers, part by part; returns the unreadable images.

    Raises:
        SekdError: more images than the set share are unreadable.
    """
    unreadable: list[Unreadable] = []
    for start in range(0, len(task.examples), part_size):
        examples = task.examples[start : start + part_size]
        generations: list[Generation] = []
        since = time.perf_counter()
        conversations = (ask(strategies, task.cell.paradigm, task.dataset, example) for example in examples)
        for found in engine.drive(conversations, adapter=task.adapter):
            done(1)
            (unreadable if isinstance(found, Unreadable) else generations).append(found)
        wall = (time.perf_counter() - since) / len(examples)
        if generations:
            kept = [replace(each, wall=wall, key=task.keys[each.sample]) for each in generations]
            write_part(task.folder, task.cell, kept)
        refused = {task.keys[each.sample]: each.reason for each in unreadable if each.refused}
        if refused:
            add_refused(task.folder, refused, room=engine.config.max_model_len)
        check_share([each.reason for each in unreadable], task.dataset, unreadable_share)
    return unreadable


def ask(
    strategies: Strategies, strategy: str, dataset: Dataset, example: Example
) -> Conversation[Generation | Unreadable]:
    """The conversation about one example."""
    subject = Subject.of(dataset, example)
    try:
        answers = yield from strategies.ask(strategy, subject)
    except UnreadableImageError as error:
        return Unreadable(dataset.name, example.id, str(error), isinstance(error, UnusableImageError))
    joint, results = strategy == "joint", answers.results
    return Generation(
        sample=example.id,
        image=str(example.image),
        questions=subject.questions,
        texts=(results[0].text,) if joint else tuple(map(_letter, answers.chosen)),
        letter_logprobs=_letter_logprobs(strategies, subject.questions, answers, joint=joint),
        prompt_tokens=tuple(result.prompt_tokens for result in results),
        cached_tokens=tuple(result.cached_tokens for result in results),
        new_tokens=tuple(len(result.token_ids) for result in results),
        latency=tuple(result.latency for result in results),
        wall=0.0,
    )


def _letter(choice: int | None) -> str:
    """The stored text of a single answer; empty if it chose no option."""
    return "" if choice is None else LETTERS[choice]


def _letter_logprobs(
    strategies: Strategies, questions: Sequence[Question], answers: Answers, *, joint: bool
) -> tuple[tuple[float, ...], ...]:
    """The letters' log-probabilities at each answer's letter; empty without a letter."""
    places: list[tuple[StepResult, int | None]] = [(result, 0) for result in answers.results]
    if joint:
        [result] = answers.results
        letters = strategies.letter_ids(max(len(question.options) for question in questions))
        tokenizer = strategies.processor.tokenizer
        positions = letter_positions(result.text, result.token_ids, questions, letters, tokenizer)
        places = [(result, position) for position in positions]
    return tuple(
        () if position is None else strategies.letter_logprobs(question, result, position)
        for question, (result, position) in zip(questions, places, strict=True)
    )


def letter_positions(
    text: str, token_ids: Sequence[int], questions: Sequence[Question], letters: Sequence[int], tokenizer: Any
) -> list[int | None]:
    """Index of the token of a joint reply that is each question's letter, as the parser reads the reply.

    A token counts if it ends with the letter that the parser found and is this letter's token in the wording's format
    (``letters``): elsewhere, as in "**B**", several tokens share its probability.
    """
    text = text.lstrip()  # the engine's text may begin with a space where the tokenizer's does not
    places = letter_places(text, questions)
    found: list[int | None] = [None] * len(questions)
    for position, token in enumerate(token_ids):
        if token not in letters:
            continue
        said = tokenizer.decode(token_ids[: position + 1], skip_special_tokens=True).lstrip()
        place = len(said) - 1
        if text.startswith(said) and said[place] == LETTERS[letters.index(token)] and place in places:
            found[places.index(place)] = position
    return found


def check_share(unreadable: Sequence[str], dataset: Dataset, share: float) -> None:
    """Check the number of unreadable images, given their faults.

    Raises:
        SekdError: they are more than the allowed share of the dataset.
    """
    if len(unreadable) > share * len(dataset.examples):
        raise SekdError(
            f"{len(unreadable)} of {len(dataset.examples)} images of {dataset.name} cannot be read, like "
            f"{unreadable[0]}; repair them, or accept more with unreadable_share (now {share})"
        )
