"""The three ways to ask a model for a path, as conversations for the engine.

| paradigm | requests an image | what a request holds |
|---|---|---|
| joint | 1 | all questions; all answers in one generation |
| independent | one a level, at once | one level's question, no context |
| conditioned | one a level, in turn | one level's question and the model's own answers so far |

The answer position is the prompt's last one in the single-question paradigms: its logits predict the letter.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from sekd.answers import Parser, parse_joint
from sekd.inference.requests import StepRequest, StepResult
from sekd.prompts import Prompt, Prompter
from sekd.questions import Question

PARADIGMS = ("joint", "independent", "conditioned")


@dataclass(frozen=True)
class Answers:
    """What a model answered about one image: an option index per question (None where unparsed), and the engine's
    results, one a request."""

    chosen: tuple[int | None, ...]
    results: tuple[StepResult, ...]


@dataclass(frozen=True)
class History:
    """Questions and the option chosen in each: what a model is told as known."""

    questions: tuple[Question, ...] = ()
    answers: tuple[int, ...] = ()


NOTHING = History()
InTurn = Generator[StepRequest, StepResult, Answers]


@dataclass(frozen=True)
class Subject:
    """An image and the questions about it. ``key`` names the image's content for the engine's caches."""

    image: Path | Image.Image
    key: str
    questions: tuple[Question, ...]


class Asker:
    """Puts questions to a model in one wording.

    Args:
        prompter: the wording.
        processor: the model's processor, for its chat template and tokenizer.
        topk: most likely tokens to report with each generated token.
        capture: hand out hidden states at each answer position of a single question.
        max_answer_tokens: most tokens of a joint answer.
        parser: how joint answers are read (see ``sekd.answers``).
    """

    def __init__(
        self,
        prompter: Prompter,
        processor: Any,
        *,
        topk: int = 0,
        capture: bool = False,
        max_answer_tokens: int = 256,
        parser: Parser = "lenient",
    ) -> None:
        self._prompter, self._processor = prompter, processor
        self._topk, self._capture = topk, capture
        self._max_answer_tokens, self._parser = max_answer_tokens, parser
        self._letters: dict[int, tuple[int, ...]] = {}

    def ask(self, paradigm: str, subject: Subject) -> Generator[Any, Any, Answers]:
        """The conversation of one of ``PARADIGMS``."""
        assert paradigm in PARADIGMS, paradigm
        return getattr(self, paradigm)(subject)

    def conditioned(self, subject: Subject, told: History = NOTHING) -> InTurn:
        """Each level in turn, told the model's own answers to the levels above; or, as far as it goes, what is ``told``
        instead of them."""

        def prompt(step: int, chosen: Sequence[int]) -> Prompt:
            known = min(step, len(told.answers))
            questions = (*told.questions[:known], *subject.questions[known:])
            return self._prompter.conditioned(questions, step, (*told.answers[:known], *chosen[known:]))

        return self._in_turn(subject, prompt)

    def independent(self, subject: Subject) -> Generator[list[StepRequest], list[StepResult], Answers]:
        """Each level by itself, all at once."""
        steps = range(len(subject.questions))
        prompts = [self._prompter.independent(subject.questions, step) for step in steps]
        results = yield [self._single(subject, prompt, step) for step, prompt in enumerate(prompts)]
        return Answers(tuple(self._choice(subject, step, results[step]) for step in steps), tuple(results))

    def joint(self, subject: Subject, *, most_tokens: int | None = None) -> Generator[StepRequest, StepResult, Answers]:
        """All levels in one generation, of ``max_answer_tokens`` unless this subject is given another bound."""
        text = self._prompter.render(self._processor, self._prompter.joint(subject.questions))
        result = yield StepRequest(
            text, subject.image, subject.key, max_tokens=most_tokens or self._max_answer_tokens, topk=self._topk
        )
        return Answers(tuple(parse_joint(result.text, subject.questions, parser=self._parser)), (result,))

    def held(self, subject: Subject) -> InTurn:
        """All levels in one reply as ``joint``, held to its form: what stands before each letter is written for the
        model, its own answers included. Where a joint reply keeps to the form, its letters are these."""
        return self._in_turn(subject, partial(self._prompter.held, subject.questions))

    def _in_turn(self, subject: Subject, prompt: Callable[[int, Sequence[int]], Prompt]) -> InTurn:
        """One letter after the other; ``prompt`` makes a step's prompt of the answers before it."""
        chosen: list[int] = []
        results: list[StepResult] = []
        for step in range(len(subject.questions)):
            result = yield self._single(subject, prompt(step, chosen), step)
            chosen.append(self._choice(subject, step, result))
            results.append(result)
        return Answers(tuple(chosen), tuple(results))

    def letter_ids(self, options: int) -> tuple[int, ...]:
        """Token ids of the letters of a question with so many options, in the place where an answer's letter stands."""
        if options not in self._letters:
            self._letters[options] = tuple(self._prompter.letter_ids(self._processor.tokenizer, options))
        return self._letters[options]

    def _single(self, subject: Subject, prompt: Prompt, step: int) -> StepRequest:
        return StepRequest(
            prompt_text=self._prompter.render(self._processor, prompt),
            image=subject.image,
            image_key=subject.key,
            letter_ids=self.letter_ids(len(subject.questions[step].options)),
            topk=self._topk,
            capture=self._capture,
        )

    def _choice(self, subject: Subject, step: int, result: StepResult) -> int:
        letters: Sequence[int] = self.letter_ids(len(subject.questions[step].options))
        return letters.index(result.token_ids[0])
