"""The prompting strategies: every way to prompt a model for an image's path, as conversations for the engine.

| strategy | requests an image | what a request holds |
|---|---|---|
| joint | 1 | all questions; all answers in one generation (Joint Path Decision) |
| independent | one a level, at once | one level's question, no context |
| conditioned | one a level, in turn | one level's question and the answers so far (Decision-Conditioned Rollout) |
| guided | one a level, in turn | as joint, the reply given up to the level's letter with the answers so far |
| true_prefix | one a level, at once | as guided, with the true answers |
| wrong_prefix | one a level, at once | as guided, with wrong answers, drawn evenly from the other options |

The first three are the paper's paradigms. The others force the prefix of a joint reply: its letters always parse, and
the known prefix shows whether the model uses it.

In all but joint the prompt's last position is the answer position: its logits predict the letter.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from sekd.answers import parse_joint
from sekd.datasets.base import Dataset, Example
from sekd.descent import Found, OpenQuestion, descend
from sekd.errors import SekdError
from sekd.inference.requests import StepRequest, StepResult
from sekd.inference.schedule import Conversation
from sekd.prompts import Prompt, Prompter
from sekd.questions import Question
from sekd.taxonomy import Names, Taxonomy

PARADIGMS = ("joint", "independent", "conditioned")
FORCED_PREFIXES = ("guided", "true_prefix", "wrong_prefix")
STRATEGIES = (*PARADIGMS, *FORCED_PREFIXES)
SPARE, TIMES = 64, 2
ANSWER_LENGTH = f"{SPARE} + {TIMES} x the longest answer to the image's own questions"  # most tokens of a joint answer


@dataclass(frozen=True)
class Subject:
    """An image and the questions about it. ``key`` identifies the image's content in the engine's caches, ``sample``
    the example in its dataset. Where a descent found the path, ``path_logprobs`` are the log of its probability down to
    each question's node."""

    image: Path | Image.Image
    key: str
    questions: tuple[Question, ...]
    sample: str = ""
    path_logprobs: tuple[float, ...] = ()

    @classmethod
    def of(cls, dataset: Dataset, example: Example) -> "Subject":
        path = dataset.image_path(example)
        questions = () if dataset.config.by_descent else dataset.questions(example)
        return cls(path, str(path), questions, example.id)


@dataclass(frozen=True)
class Answers:
    """What a model answered about one image: an option index per question (None where unparsed), and the engine's
    results, one a request."""

    chosen: tuple[int | None, ...]
    results: tuple[StepResult, ...]


@dataclass(frozen=True)
class GivenAnswers:
    """Questions and the option chosen in each, which a prompt gives in place of the model's own answers."""

    questions: tuple[Question, ...] = ()
    options: tuple[int, ...] = ()


NOTHING = GivenAnswers()


class Strategies:
    """The strategies in one wording, for one model.

    Args:
        processor: the model's processor, for its chat template and tokenizer.
        topk: most likely tokens to report with each generated token.
        capture: return hidden states at each answer position; a joint generation has none.
    """

    def __init__(self, prompter: Prompter, processor: Any, *, topk: int = 0, capture: bool = False) -> None:
        self.prompter, self.processor = prompter, processor
        self._topk, self._capture = topk, capture
        self._letter_ids: dict[int, tuple[int, ...]] = {}

    def ask(self, strategy: str, subject: Subject) -> Conversation[Answers]:
        """The conversation of one of ``STRATEGIES``."""
        assert strategy in STRATEGIES, strategy
        return getattr(self, strategy)(subject)

    def joint(self, subject: Subject) -> Conversation[Answers]:
        """All levels in one generation, at most as long as ``ANSWER_LENGTH`` says."""
        longest = self.prompter.longest_answer(subject.questions)
        tokens = len(self.processor.tokenizer(longest, add_special_tokens=False)["input_ids"])
        request = self._request(subject, self.prompter.joint(subject.questions), None)
        (result,) = yield [replace(request, max_tokens=SPARE + TIMES * tokens)]
        return Answers(tuple(parse_joint(result.text, subject.questions)), (result,))

    def independent(self, subject: Subject) -> Conversation[Answers]:
        """Each level by itself, all at once."""
        return self._at_once(subject, partial(self.prompter.independent, subject.questions))

    def conditioned(self, subject: Subject, given: GivenAnswers = NOTHING) -> Conversation[Answers]:
        """Each level in turn, after the model's own answers to the levels above; ``given`` replaces the first of
        them."""

        def prompt(step: int, chosen: Sequence[int]) -> Prompt:
            known = min(step, len(given.options))
            questions = (*given.questions[:known], *subject.questions[known:])
            return self.prompter.conditioned(questions, step, (*given.options[:known], *chosen[known:]))

        return self._in_turn(subject, prompt)

    def guided(self, subject: Subject, decided: Sequence[int] = ()) -> Conversation[Answers]:
        """Each level in turn in one forced reply, after the model's own answers to the levels above.

        ``decided`` are the options of the first levels, which are not asked about: ``Answers`` holds the others.
        """
        return self._in_turn(subject, partial(self.prompter.forced_prefix, subject.questions), decided)

    def descend(
        self, subject: Subject, taxonomy: Taxonomy, *, roots: Sequence[Names], options: int, beam: int
    ) -> Conversation[Found]:
        """The image's path, found from the roots down (``sekd.descent``), asked as ``conditioned`` asks.

        All heats of a level are asked at once.
        """
        descent = descend(taxonomy, roots=roots, options=options, beam=beam, seed=subject.sample)
        try:
            asked = next(descent)
            while True:
                requests = [self._about_next_level(subject, each) for each in asked]
                results = yield requests
                asked = descent.send(
                    [self.probabilities(each.question, result) for each, result in zip(asked, results, strict=True)]
                )
        except StopIteration as end:
            return end.value

    def true_prefix(self, subject: Subject) -> Conversation[Answers]:
        """Each level after the true answers to the levels above."""
        return self._after(subject, labels(subject, "true_prefix"))

    def wrong_prefix(self, subject: Subject) -> Conversation[Answers]:
        """Each level after wrong answers to the levels above."""
        return self._after(subject, wrong_answers(subject))

    # --- shared by the strategies ---

    def _in_turn(
        self, subject: Subject, prompt: Callable[[int, Sequence[int]], Prompt], decided: Sequence[int] = ()
    ) -> Conversation[Answers]:
        """One letter after the other; ``prompt`` makes a step's prompt of the answers before it."""
        chosen, results = list(decided), []
        for step in range(len(decided), len(subject.questions)):
            (result,) = yield [self._request(subject, prompt(step, chosen), step)]
            chosen.append(self._choice(subject, step, result))
            results.append(result)
        return Answers(tuple(chosen[len(decided) :]), tuple(results))

    def _at_once(self, subject: Subject, prompt: Callable[[int], Prompt]) -> Conversation[Answers]:
        """All letters at once; ``prompt`` makes a step's prompt."""
        steps = range(len(subject.questions))
        results = yield [self._request(subject, prompt(step), step) for step in steps]
        return Answers(tuple(self._choice(subject, step, results[step]) for step in steps), tuple(results))

    def _after(self, subject: Subject, answers: Sequence[int]) -> Conversation[Answers]:
        return self._at_once(subject, lambda step: self.prompter.forced_prefix(subject.questions, step, answers))

    def _about_next_level(self, subject: Subject, asked: OpenQuestion) -> StepRequest:
        path, step = asked.path, len(asked.path.questions)
        about = replace(subject, questions=(*path.questions, asked.question))
        prompt = self.prompter.conditioned(about.questions, step, path.answers)
        return replace(self._request(about, prompt, step), capture=False)

    def _request(self, subject: Subject, prompt: Prompt, step: int | None) -> StepRequest:
        """``step`` is that of the question whose letter is the answer; None generates freely."""
        return StepRequest(
            prompt_text=self.prompter.render(self.processor, prompt),
            image=subject.image,
            image_key=subject.key,
            letter_ids=None if step is None else self.letter_ids(len(subject.questions[step].options)),
            topk=self._topk,
            capture=self._capture and step is not None,
        )

    def _choice(self, subject: Subject, step: int, result: StepResult) -> int:
        return self.letter_ids(len(subject.questions[step].options)).index(result.token_ids[0])

    # --- letters ---

    def letter_ids(self, options: int) -> tuple[int, ...]:
        """Token ids of the letters of a question with so many options, at the answer position."""
        if options not in self._letter_ids:
            self._letter_ids[options] = tuple(self.prompter.letter_ids(self.processor.tokenizer, options))
        return self._letter_ids[options]

    def letter_logprobs(self, question: Question, result: StepResult, position: int = 0) -> tuple[float, ...]:
        """Log-probability of each option's letter at a generated token, over the whole vocabulary; −inf outside the
        top k, empty where all of them are."""
        ids, logprobs = result.topk_ids_by_token[position], result.topk_logprobs_by_token[position]
        known = dict(zip(ids.tolist(), logprobs.tolist(), strict=True))
        letters = self.letter_ids(len(question.options))
        return tuple(known.get(token, -math.inf) for token in letters) if known.keys() & set(letters) else ()

    def probabilities(self, question: Question, result: StepResult) -> tuple[float, ...]:
        """Each option's probability among the options; of one outside the top k it is 0, and if all are, equal."""
        logprobs = self.letter_logprobs(question, result) or (0.0,) * len(question.options)
        return among_offered(logprobs)


def among_offered(logprobs: Sequence[float]) -> tuple[float, ...]:
    """Each letter's probability among the offered ones, 0 … 1; one of them at least is not −inf."""
    top = max(logprobs)
    weights = [math.exp(value - top) for value in logprobs]
    return tuple(weight / sum(weights) for weight in weights)


def labels(subject: Subject, needed_by: str) -> tuple[int, ...]:
    """The true option of each question.

    Raises:
        SekdError: the truth is unknown; names the strategy that needs it.
    """
    truth = tuple(question.truth for question in subject.questions if question.truth is not None)
    if len(truth) < len(subject.questions):
        raise SekdError(f"{needed_by} needs the labels of every image: those of {subject.sample} are not known")
    return truth


def wrong_answers(subject: Subject) -> tuple[int, ...]:
    """One of the wrong options of each question, the same in every call for a sample."""
    rng = random.Random(subject.sample)
    truth = labels(subject, "wrong_prefix")
    return tuple(
        rng.choice([option for option in range(len(question.options)) if option != true])
        for question, true in zip(subject.questions, truth, strict=True)
    )
