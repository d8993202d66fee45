"""One image's conversation: the generation it makes, and where the letters of its answers stand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sekd.answers import letter_places
from sekd.datasets.base import Dataset, Example
from sekd.errors import SekdError
from sekd.evaluation.generations import Generation
from sekd.inference.requests import StepResult, UnreadableImageError, UnusableImageError
from sekd.inference.schedule import Conversation
from sekd.inference.strategies import Strategies, Subject
from sekd.questions import LETTERS, Question


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read or that the model refused, of which dataset, and why."""

    tree: str
    sample: str
    reason: str
    refused: bool = False


def ask(
    strategies: Strategies, strategy: str, dataset: Dataset, example: Example
) -> Conversation[Generation | Unreadable]:
    """The conversation about one example."""
    subject = Subject.of(dataset, example)
    try:
        answers = yield from strategies.ask(strategy, subject)
    except UnreadableImageError as error:
        return Unreadable(dataset.name, example.id, str(error), isinstance(error, UnusableImageError))
    questions, results = subject.questions, answers.results
    places: list[tuple[StepResult, int | None]] = [(result, 0) for result in results]
    texts = tuple("" if choice is None else LETTERS[choice] for choice in answers.chosen)
    if strategy == "joint":
        [result] = results
        letters = strategies.letter_ids(max(len(question.options) for question in questions))
        tokenizer = strategies.processor.tokenizer
        positions = letter_positions(result.text, result.token_ids, questions, letters, tokenizer)
        places, texts = [(result, position) for position in positions], (result.text,)
    return Generation(
        sample=example.id,
        image=str(example.image),
        questions=questions,
        texts=texts,
        letter_logprobs=tuple(
            () if position is None else strategies.letter_logprobs(question, result, position)
            for question, (result, position) in zip(questions, places, strict=True)
        ),
        prompt_tokens=tuple(result.prompt_tokens for result in results),
        cached_tokens=tuple(result.cached_tokens for result in results),
        new_tokens=tuple(len(result.token_ids) for result in results),
        latency=tuple(result.latency for result in results),
        wall=0.0,
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
