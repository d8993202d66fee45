"""The prompts of the three paradigms as chat messages, and the positions of the answer letters.

Joint asks for every level in one reply, independent for one level without context, conditioned for one level with the
answers above it known. The texts are in ``prompts.yaml``.

The text before a letter is the same in all three. Where one question is asked, the assistant's turn begins with the
*primer* ("Q2:"), and the model's next token is the letter; each line of a joint answer begins with the same text. So
the letter is the same token for teacher and student, and the hidden states before it are comparable.
"""

import string
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sekd.errors import SekdError
from sekd.questions import LETTERS, Question

TEMPLATES = Path(__file__).with_name("prompts.yaml")
Message = dict[str, Any]

# The fields that each template must contain, and the further ones that it may.
FIELDS: dict[str, tuple[set[str], set[str]]] = {
    "joint": ({"questions"}, set()),
    "independent": ({"question"}, set()),
    "conditioned": ({"facts", "question"}, set()),
    "question": ({"number", "level", "options"}, set()),
    "option": ({"letter", "name"}, set()),
    "facts": ({"facts"}, set()),
    "fact": ({"level", "name"}, set()),
    "prefix": ({"number"}, set()),
    "named": ({"name"}, set()),
    "alone": ({"level", "options"}, {"number"}),
    "primer": (set(), {"number"}),
}


@dataclass(frozen=True)
class Wording:
    """One entry of ``prompts.yaml``, which explains the templates."""

    name: str
    joint: str
    independent: str
    conditioned: str
    question: str
    question_joiner: str
    option: str
    option_joiner: str
    facts: str
    fact: str
    fact_joiner: str
    prefix: str
    named: str
    answer_joiner: str
    system: str | None = None
    dialogue: bool = False
    alone: str | None = None
    primer: str | None = None

    def __post_init__(self) -> None:
        fields = {**FIELDS, **({"conditioned": FIELDS["independent"]} if self.dialogue else {})}
        for template, (required, optional) in fields.items():
            parsed = string.Formatter().parse(getattr(self, template) or "")
            found = {name for _, name, _, _ in parsed if name is not None}
            if getattr(self, template) is not None and not required <= found <= required | optional:
                names = ", ".join(f"{{{name}}}" for name in sorted(required or optional))
                raise SekdError(f"wording {self.name}: template {template!r} must fill in {names} and nothing else")


@dataclass(frozen=True)
class Prompt:
    """Chat messages, image first; the assistant's turn begins with ``primer``."""

    messages: list[Message]
    primer: str = ""


class Prompter:
    """Writes prompts in one wording. A question's number is its 1-based index in the sample, in every paradigm."""

    def __init__(self, wording: Wording) -> None:
        self.wording = wording

    @classmethod
    def named(cls, name: str) -> "Prompter":
        """The wording of that name in ``prompts.yaml``; a ``SekdError`` where there is none."""
        wordings = load_wordings()
        if name not in wordings:
            raise SekdError(f"wording {name!r} is unknown: {TEMPLATES.name} holds {', '.join(wordings)}")
        return cls(wordings[name])

    def identity(self) -> dict[str, Any]:
        """What the prompts depend on, for the store's fingerprint: every template, without the wording's name."""
        return {name: value for name, value in asdict(self.wording).items() if name != "name"}

    def joint(self, questions: Sequence[Question]) -> Prompt:
        """Every question at once, answered in one reply."""
        asked = self.wording.question_joiner.join(
            self._question(question, number) for number, question in enumerate(questions, start=1)
        )
        return Prompt(self._opening(self.wording.joint.format(questions=asked)))

    def independent(self, questions: Sequence[Question], step: int) -> Prompt:
        text = self.wording.independent.format(question=self._single(questions, step))
        return Prompt(self._opening(text), self._primer(step))

    def conditioned(self, questions: Sequence[Question], step: int, answers: Sequence[int]) -> Prompt:
        """The question at index ``step``, with the answers (option indices) to all questions before it."""
        if self.wording.dialogue:
            return self._dialogue(questions, step, answers)
        known = self.wording.fact_joiner.join(
            self.wording.fact.format(level=question.level, name=question.options[answer])
            for question, answer in zip(questions[:step], answers[:step], strict=True)
        )
        text = self.wording.conditioned.format(
            facts=self.wording.facts.format(facts=known) if step else "", question=self._single(questions, step)
        )
        return Prompt(self._opening(text), self._primer(step))

    def single(self, paradigm: str, questions: Sequence[Question], step: int, answers: Sequence[int]) -> Prompt:
        assert paradigm in ("independent", "conditioned"), paradigm
        independent = paradigm == "independent"
        return self.independent(questions, step) if independent else self.conditioned(questions, step, answers)

    def joint_answer(self, questions: Sequence[Question], answers: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
        """The reply that gives these answers (option indices), and each letter's [start, end) in characters."""
        text, spans = "", []
        for step, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            text += f"{self.wording.answer_joiner if step else ''}{self._prefix(step)} "
            spans.append((len(text), len(text) + 1))
            text += self._letter_and_name(question, answer)
        return text, spans

    def longest_answer(self, questions: Sequence[Question]) -> str:
        """The joint reply that names each question's longest option."""
        longest = [max(range(len(q.options)), key=lambda i: len(q.options[i])) for q in questions]
        return self.joint_answer(questions, longest)[0]

    def forced_prefix(self, questions: Sequence[Question], step: int, answers: Sequence[int]) -> Prompt:
        """Every question at once, with the reply up to the letter at ``step`` given, answers before it included."""
        reply, spans = self.joint_answer(questions[: step + 1], [*answers[:step], 0])
        # Without the space before the letter, which is part of the letter's token.
        return Prompt(self.joint(questions).messages, primer=reply[: spans[step][0]].rstrip(" "))

    def render(self, processor: Any, prompt: Prompt) -> str:
        """The prompt in the model's own chat template, the primer included.

        Raises:
            SekdError: the processor (or tokenizer) has no chat template, or one that drops a message's text.
        """
        if not getattr(processor, "chat_template", None):
            raise SekdError("the model's processor has no chat template: a chat model is needed")
        text = processor.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
        for message in prompt.messages:
            for part in message["content"]:
                if part["type"] == "text" and part["text"].strip() not in text:
                    raise SekdError(
                        f"the model's chat template drops the {message['role']}'s text: it must write messages whose "
                        "content is a list of parts"
                    )
        return text + prompt.primer

    def end_of_turn(self, processor: Any) -> int:
        """The token with which the model's chat template ends a turn of the assistant.

        Where the template writes no special token there, the tokenizer's end-of-text token. The two may differ:
        InternVL2.5's tokenizer ends a text with "</s>", its template a turn with "<|im_end|>".
        """
        reply = f"{self._prefix(0)} {LETTERS[0]}"
        turn = {"role": "assistant", "content": [_text(reply)]}
        text = processor.apply_chat_template([*self._opening("?"), turn], tokenize=False)
        tokenizer = processor.tokenizer
        following = _ids(tokenizer, text.rpartition(reply)[2])
        special = following and getattr(tokenizer.added_tokens_decoder.get(following[0]), "special", False)
        return following[0] if special else tokenizer.eos_token_id

    def letter_ids(self, tokenizer: Any, n_options: int) -> list[int]:
        """Token ids of " A", " B", … after the primer, which are also those in a joint answer.

        Raises:
            SekdError: a letter is not one token of its own there.
        """
        primer = self._primer(0)
        before = _ids(tokenizer, primer)
        ids = []
        for letter in LETTERS[:n_options]:
            with_letter = _ids(tokenizer, _after(primer, letter))
            if with_letter[:-1] != before:
                raise SekdError(
                    f"wording {self.wording.name}: the letter {letter} after {primer!r} is not one token of this "
                    "model's tokenizer; choose another wording"
                )
            ids.append(with_letter[-1])
        if len(set(ids)) < n_options:
            raise SekdError(f"wording {self.wording.name}: this model's tokenizer does not tell the letters apart")
        return ids

    def answer_tokens(
        self, tokenizer: Any, questions: Sequence[Question], answers: Sequence[int]
    ) -> tuple[list[int], list[int]]:
        """The joint answer as token ids, and the index of each letter in them.

        Raises:
            SekdError: the letters are not the tokens of ``letter_ids``, which the teacher's answers are made of.
        """
        text, spans = self.joint_answer(questions, answers)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, ends = list(encoded["input_ids"]), [end for _, end in encoded["offset_mapping"]]
        positions = [next(index for index, end in enumerate(ends) if end >= stop) for _, stop in spans]
        letters = self.letter_ids(tokenizer, max(len(question.options) for question in questions))
        for number, (position, answer) in enumerate(zip(positions, answers, strict=True), start=1):
            if ids[position] != letters[answer]:
                raise SekdError(
                    f"wording {self.wording.name}: in the joint answer the letter of question {number} is token "
                    f"{ids[position]}, but {letters[answer]} where that question is asked alone; "
                    "choose another wording for this model"
                )
        return ids, positions

    def _dialogue(self, questions: Sequence[Question], step: int, answers: Sequence[int]) -> Prompt:
        messages = self._opening(self.wording.conditioned.format(question=self._single(questions, 0)))
        for earlier in range(step):
            reply = _after(self._primer(earlier), self._letter_and_name(questions[earlier], answers[earlier]))
            messages.append({"role": "assistant", "content": [_text(reply)]})
            messages.append({"role": "user", "content": [_text(self._single(questions, earlier + 1))]})
        return Prompt(messages, self._primer(step))

    def _opening(self, text: str) -> list[Message]:
        system = self.wording.system
        first: list[Message] = [{"role": "system", "content": [_text(system)]}] if system else []
        return [*first, *request(text).messages]

    def _single(self, questions: Sequence[Question], step: int) -> str:
        """The question where it is the only one asked."""
        return self._question(questions[step], step + 1, self.wording.alone)

    def _question(self, question: Question, number: int, template: str | None = None) -> str:
        options = self.wording.option_joiner.join(
            self.wording.option.format(letter=letter, name=name)
            for letter, name in zip(LETTERS, question.options, strict=False)
        )
        return (template or self.wording.question).format(number=number, level=question.level, options=options)

    def _prefix(self, step: int) -> str:
        return self.wording.prefix.format(number=step + 1)

    def _primer(self, step: int) -> str:
        template = self.wording.prefix if self.wording.primer is None else self.wording.primer
        return template.format(number=step + 1)

    def _letter_and_name(self, question: Question, answer: int) -> str:
        return LETTERS[answer] + self.wording.named.format(name=question.options[answer])


def own_bos(tokenizer: Any) -> list[int]:
    """The token that a tokenizer puts before every text, as Llama's does, or none."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("")["input_ids"][:1] == [bos] else []


def request(text: str) -> Prompt:
    """An image and a request in the user's own words."""
    return Prompt([{"role": "user", "content": [{"type": "image"}, _text(text)]}])


def _after(primer: str, text: str) -> str:
    return f"{primer} {text}" if primer else text


@cache
def load_wordings() -> dict[str, Wording]:
    """Every wording of ``prompts.yaml``, by name."""
    return {name: Wording(name=name, **entry) for name, entry in yaml.safe_load(TEMPLATES.read_text()).items()}


def _text(text: str) -> Message:
    return {"type": "text", "text": text}


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
