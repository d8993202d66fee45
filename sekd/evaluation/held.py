"""The joint answer held to letters: the model's turn is written for it up to each letter, and it chooses the letter.

All questions stand in the prompt, as in a free joint answer, but nothing can fail to parse. What stands before a letter
is ours to choose, which shows whether the model uses it:

| prefix | what stands before the letter of a level |
|---|---|
| guided | the model's own answers to the levels above (guided decoding) |
| true_prefix | the true answers |
| wrong_prefix | wrong answers, drawn evenly from the other options |
"""

import math
import random
from collections.abc import Generator, Sequence
from typing import Any

from sekd.errors import SekdError
from sekd.evaluation.calibration import among_offered
from sekd.inference.paradigms import Answers, Subject
from sekd.inference.requests import StepRequest, StepResult
from sekd.prompts import Prompter
from sekd.questions import Question

GUIDED = "guided"
PREFIXES = (GUIDED, "true_prefix", "wrong_prefix")


class HeldJoint:
    """Asks for joint answers letter by letter.

    Args:
        processor: the model's processor, for its chat template and tokenizer.
        topk: most likely tokens to report with each letter.
    """

    def __init__(self, prompter: Prompter, processor: Any, *, topk: int) -> None:
        self._prompter, self._processor, self._topk = prompter, processor, topk

    def guided(self, subject: Subject, given: Sequence[int] = ()) -> Generator[StepRequest, StepResult, Answers]:
        """Each letter after the model's own answers, the first of which may be given (option indices).

        ``Answers`` holds the levels that were asked, those after the given ones.
        """
        prompt, chosen = self._prompt(subject), list(given)
        results: list[StepResult] = []
        for step in range(len(given), len(subject.questions)):
            result = yield self._request(subject, prompt, step, chosen)
            results.append(result)
            chosen.append(self._letters(subject.questions[step]).index(result.token_ids[0]))
        return Answers(tuple(chosen[len(given) :]), tuple(results))

    def after(self, subject: Subject, said: Sequence[int]) -> Generator[list[StepRequest], list[StepResult], Answers]:
        """Each letter after what is ``said`` about the levels above it (option indices), all at once."""
        prompt, steps = self._prompt(subject), range(len(subject.questions))
        results = yield [self._request(subject, prompt, step, said[:step]) for step in steps]
        letters = [self._letters(question) for question in subject.questions]
        return Answers(tuple(letters[step].index(results[step].token_ids[0]) for step in steps), tuple(results))

    def ask(self, prefix: str, subject: Subject, *, sample: str) -> Generator[Any, Any, Answers]:
        """The conversation of one of ``PREFIXES``; ``sample`` decides which wrong answers are said."""
        if prefix == GUIDED:
            return self.guided(subject)
        choose = true_answers if prefix == "true_prefix" else wrong_answers
        return self.after(subject, choose(subject.questions, sample=sample))

    def _prompt(self, subject: Subject) -> str:
        return self._prompter.render(self._processor, self._prompter.joint(subject.questions))

    def _request(self, subject: Subject, prompt: str, step: int, before: Sequence[int]) -> StepRequest:
        return StepRequest(
            prompt_text=prompt + self._prompter.held(subject.questions, step, before).primer,
            image=subject.image,
            image_key=subject.key,
            letter_ids=self._letters(subject.questions[step]),
            topk=self._topk,
        )

    def probabilities(self, question: Question, result: StepResult) -> tuple[float, ...]:
        """Each option's probability among the offered ones, 0 … 1; NaN where no letter is among the top k."""
        logprobs = letter_logprobs(result, 0, self._letters(question))
        return among_offered(logprobs) if logprobs else (math.nan,) * len(question.options)

    def _letters(self, question: Question) -> tuple[int, ...]:
        return tuple(self._prompter.letter_ids(self._processor.tokenizer, len(question.options)))


def letter_logprobs(result: StepResult, position: int, letters: Sequence[int]) -> tuple[float, ...]:
    """Log-probability of each letter at a generated token; −inf outside the top k, empty where all of them are."""
    ids, logprobs = result.topk_ids_by_token[position], result.topk_logprobs_by_token[position]
    known = dict(zip(ids.tolist(), logprobs.tolist(), strict=True))
    return tuple(known.get(token, -math.inf) for token in letters) if known.keys() & set(letters) else ()


def true_answers(questions: Sequence[Question], *, sample: str) -> list[int]:
    """The true option of each question.

    Raises:
        SekdError: the truth is not known.
    """
    truth = [question.truth for question in questions if question.truth is not None]
    if len(truth) < len(questions):
        raise SekdError(f"a true or wrong prefix needs the truth, which is not known of {sample}")
    return truth


def wrong_answers(questions: Sequence[Question], *, sample: str) -> list[int]:
    """One of the wrong options of each question, the same at every call for one sample."""
    rng = random.Random(sample)
    truth = true_answers(questions, sample=sample)
    return [
        rng.choice([option for option in range(len(question.options)) if option != right])
        for question, right in zip(questions, truth, strict=True)
    ]
