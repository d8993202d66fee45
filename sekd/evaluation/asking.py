"""Conversations whose result is a ``Generation``: what was asked, what was said, what it cost."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from sekd.answers import letter_places
from sekd.datasets.base import Dataset, Example
from sekd.evaluation.generations import Generation
from sekd.evaluation.held import PREFIXES, HeldJoint, letter_logprobs
from sekd.inference.paradigms import PARADIGMS, Answers, Asker, Subject
from sekd.inference.requests import StepResult, UnreadableImageError
from sekd.prompts import Prompter
from sekd.questions import LETTERS, Question

WAYS = (*PARADIGMS, *PREFIXES)
SPARE, TIMES = 64, 2
ANSWER_LENGTH = f"{SPARE} + {TIMES} x the longest answer to the image's own questions"  # most tokens of a joint answer


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read, of which dataset, and why."""

    tree: str
    sample: str
    reason: str


Conversation = Generator[Any, Any, Generation | Unreadable]


class Examiner:
    """Asks about a dataset's examples in one wording.

    Args:
        processor: the model's processor, for its chat template and tokenizer.
        topk: most likely tokens to look the letters' probabilities up in.
    """

    def __init__(self, prompter: Prompter, processor: Any, *, topk: int) -> None:
        self._prompter, self._tokenizer = prompter, processor.tokenizer
        self._asker = Asker(prompter, processor, topk=topk)
        self._held = HeldJoint(prompter, processor, topk=topk)

    def ask(self, paradigm: str, dataset: Dataset, example: Example) -> Conversation:
        """One example in one of the paradigms, or after one of the prefixes, of ``WAYS``."""
        questions = dataset.questions(example)
        subject = Subject(dataset.image_path(example), f"{dataset.root}/{example.image}", questions)
        try:
            answers = yield from self._conversation(paradigm, subject, example.id)
        except UnreadableImageError as error:
            return Unreadable(dataset.name, example.id, str(error))
        joint = paradigm == "joint"
        results = answers.results
        return Generation(
            sample=example.id,
            image=str(example.image),
            questions=questions,
            texts=(results[0].text,) if joint else tuple(map(_letter, answers.chosen)),
            letter_logprobs=self._joint_letters(questions, results[0]) if joint else self._letters(questions, results),
            prompt_tokens=tuple(result.prompt_tokens for result in results),
            cached_tokens=tuple(result.cached_tokens for result in results),
            new_tokens=tuple(len(result.token_ids) for result in results),
            latency=tuple(result.latency for result in results),
            wall=0.0,
        )

    def _conversation(self, way: str, subject: Subject, sample: str) -> Generator[Any, Any, Answers]:
        if way in PREFIXES:
            return self._held.ask(way, subject, sample=sample)
        if way == "joint":
            longest = longest_answer(self._prompter, self._tokenizer, subject.questions)
            return self._asker.joint(subject, most_tokens=SPARE + TIMES * longest)
        return self._asker.ask(way, subject)

    def _letters(self, questions: Sequence[Question], results: Sequence[StepResult]) -> tuple[tuple[float, ...], ...]:
        return tuple(self._at(question, result, 0) for question, result in zip(questions, results, strict=True))

    def _joint_letters(self, questions: Sequence[Question], result: StepResult) -> tuple[tuple[float, ...], ...]:
        """The letters' log-probabilities where each answer's letter was written; empty where none was."""
        letters = self._asker.letter_ids(max(len(question.options) for question in questions))
        positions = letter_positions(result.text, result.token_ids, questions, letters, self._tokenizer)
        return tuple(
            () if position is None else self._at(question, result, position)
            for question, position in zip(questions, positions, strict=True)
        )

    def _at(self, question: Question, result: StepResult, position: int) -> tuple[float, ...]:
        return letter_logprobs(result, position, self._asker.letter_ids(len(question.options)))


def letter_positions(
    text: str, token_ids: Sequence[int], questions: Sequence[Question], letters: Sequence[int], tokenizer: Any
) -> list[int | None]:
    """Index of the token of a joint reply that is each question's letter, as the parser reads the reply.

    A token counts if it ends with the letter that the parser found, and is the one that stands for this letter in an
    answer of the wording's own form (``letters``): elsewhere, as in "**B**", other tokens share its probability.
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


def longest_answer(prompter: Prompter, tokenizer: Any, questions: Sequence[Question]) -> int:
    """Tokens of the joint answer that names each question's longest option."""
    wordiest = [max(range(len(q.options)), key=lambda i: len(q.options[i])) for q in questions]
    text, _ = prompter.joint_answer(questions, wordiest)
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _letter(choice: int | None) -> str:
    """What is kept as the model's words of a single answer; none where it chose no option."""
    return "" if choice is None else LETTERS[choice]
