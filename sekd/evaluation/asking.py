"""Conversations whose result is a ``Generation``: what was asked, what was said, what it cost."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from sekd.datasets.base import Dataset, Example
from sekd.evaluation.generations import Generation
from sekd.evaluation.held import PREFIXES, HeldJoint, letter_logprobs
from sekd.inference.paradigms import PARADIGMS, Answers, Asker, Subject
from sekd.inference.requests import StepResult, UnreadableImageError
from sekd.prompts import Prompter
from sekd.questions import LETTERS, Question

WAYS = (*PARADIGMS, *PREFIXES)


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read, and why."""

    sample: str
    reason: str


Conversation = Generator[Any, Any, Generation | Unreadable]


class Examiner:
    """Asks about a dataset's examples in one wording.

    Args:
        processor: the model's processor, for its chat template and tokenizer.
        topk: most likely tokens to look the letters' probabilities up in.
        max_answer_tokens: most tokens of a joint answer.
    """

    def __init__(self, prompter: Prompter, processor: Any, *, topk: int, max_answer_tokens: int) -> None:
        self._prompter, self._tokenizer = prompter, processor.tokenizer
        self._asker = Asker(prompter, processor, topk=topk, max_answer_tokens=max_answer_tokens)
        self._held = HeldJoint(prompter, processor, topk=topk)

    def ask(self, paradigm: str, dataset: Dataset, example: Example) -> Conversation:
        """One example in one of the paradigms, or after one of the prefixes, of ``WAYS``."""
        questions = dataset.questions(example)
        subject = Subject(dataset.image_path(example), f"{dataset.root}/{example.image}", questions)
        try:
            answers = yield from self._conversation(paradigm, subject, example.id)
        except UnreadableImageError as error:
            return Unreadable(example.id, str(error))
        joint = paradigm == "joint"
        results = answers.results
        return Generation(
            sample=example.id,
            image=str(example.image),
            questions=questions,
            texts=(results[0].text,) if joint else tuple(LETTERS[int(choice or 0)] for choice in answers.chosen),
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
        return self._asker.ask(way, subject)

    def _letters(self, questions: Sequence[Question], results: Sequence[StepResult]) -> tuple[tuple[float, ...], ...]:
        return tuple(self._at(question, result, 0) for question, result in zip(questions, results, strict=True))

    def _joint_letters(self, questions: Sequence[Question], result: StepResult) -> tuple[tuple[float, ...], ...]:
        """The letters' log-probabilities where each answer's letter was written; empty where none was."""
        positions = self._positions(questions, result)
        return tuple(
            () if position is None else self._at(question, result, position)
            for question, position in zip(questions, positions, strict=True)
        )

    def _positions(self, questions: Sequence[Question], result: StepResult) -> list[int | None]:
        """Index of the generated token that is each question's letter, found by the words that lead up to it.

        A letter counts in the form in which the wording writes an answer: its question's prefix stands before it, at
        the start or after white space.
        """
        letters = set(self._asker.letter_ids(max(len(question.options) for question in questions)))
        primers = [self._prompter.independent(questions, step).primer for step in range(len(questions))]
        found: list[int | None] = [None] * len(questions)
        for position, token in enumerate(result.token_ids):
            if token not in letters:
                continue
            before = self._tokenizer.decode(result.token_ids[:position], skip_special_tokens=True).rstrip()
            for step, primer in enumerate(primers):
                if found[step] is None and _ends_with_word(before, primer):
                    found[step] = position
        return found

    def _at(self, question: Question, result: StepResult, position: int) -> tuple[float, ...]:
        return letter_logprobs(result, position, self._asker.letter_ids(len(question.options)))


def longest_answer(prompter: Prompter, tokenizer: Any, dataset: Dataset) -> int:
    """Tokens of the longest joint answer that the dataset's options allow, over its first few hundred examples."""
    longest = 0
    for example in dataset.examples[:256]:
        questions = dataset.questions(example)
        wordiest = [max(range(len(q.options)), key=lambda i: len(q.options[i])) for q in questions]
        text, _ = prompter.joint_answer(questions, wordiest)
        longest = max(longest, len(tokenizer(text, add_special_tokens=False)["input_ids"]))
    return longest


def _ends_with_word(text: str, word: str) -> bool:
    start = len(text) - len(word)
    return text.endswith(word) and (start == 0 or text[start - 1].isspace())
