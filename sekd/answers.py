"""Parse a model's reply into the option it chose at each level; ``None`` is a parse failure.

A letter counts as a choice where it is marked as one ("(b)", "**D**", "B.", "Answer: C") or stands alone, never as the
article "A" or the first letter of a word. A letter at the start counts before one that is called the answer, and that
before one that is called an option: letters in an explanation are no choices. Without such a letter an option's name
counts, where exactly one is named. Several different choices for one question are a failure.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from sekd.questions import LETTERS, Question
from sekd.taxonomy import fold

Parser = Literal["lenient", "benchmark"]
Choose = Callable[[str, Question], int | None]
Segment = tuple[int, int, str]  # index of a question, start of the text about it, and that text
Mark = tuple[int | None, int, int]  # index of a question (None beyond the last), start and end of what names it

NAME = "\0"  # replaces an option's name
LETTER = r"(?P<letter>[A-Za-z])(?![\w'’])"
IS = r"\s+(?:is|would\s+be|must\s+be)"
# What stands before a chosen letter, the most conclusive first: "option A is wrong" may explain another answer.
CUES = tuple(
    re.compile(rf"{before}[\W_]*(?:option\s+)?{LETTER}", re.IGNORECASE)
    for before in (
        r"\A",
        rf"\b(?:answer\b(?:{IS})?|(?:choice|option|pick){IS})\b",
        r"\b(?:choose|select|pick)\b",
        r"\b(?:option|choice)\b",
    )
)
MARKED = re.compile(r"[(\[](?P<letter>[A-Za-z])[)\]]|(?<![\w'’])(?P<bare>[A-Z])(?=\s*(?:[).:*]|$))", re.MULTILINE)
ALONE = re.compile(rf"(?<![\w'’]){LETTER}")
HEDGE = re.compile(r"(?<![\w'’])([A-Z])\W?\s*(?:or|and|/|&|,)\s*\W?([A-Z])(?![\w'’])")
SEQUENCE = re.compile(r"[\W_]*[A-Za-z](?:[\W_]+[A-Za-z])*[\W_]*|\s*[A-Z]+\s*")

# What separates the answers of a joint reply, the most reliable first.
LABELLED = re.compile(r"\b(?:q|question|answer|step)\s*#?(\d{1,2})(?!\w)[\s:.)\]\-–—=*]*", re.IGNORECASE)
LINE_NUMBER = re.compile(r"^[\W_]*(\d{1,2})(?![\w,]|\.\d)[\s:.)\]\-–—=*]*", re.MULTILINE)
INLINE_NUMBER = re.compile(r"(?<![\w.])(\d{1,2})\s*[-.:)=]*\s*(?=[(*\[\"']*[A-Za-z](?![A-Za-z]))")
KEY_NUMBER = re.compile(r"\D*?(\d{1,2})\D*")


def parse_single(text: str, question: Question, *, parser: Parser = "lenient") -> int | None:
    """The option that a reply to one question chooses, by index; ``None`` is a parse failure.

    Args:
        parser: "benchmark" takes the first of A to D found anywhere, as the benchmark's reference script does, which
            reads "Answer: C" as A.
    """
    answers = _from_json(text, [question]) if parser == "lenient" else None
    return answers[0] if answers is not None else CHOOSERS[parser](text, question)


def parse_joint(text: str, questions: Sequence[Question], *, parser: Parser = "lenient") -> list[int | None]:
    """The options that one reply to several questions chooses: an index a question, ``None`` for a parse failure.

    Understands numbered answers in any order, answers that name their level, a JSON object or list, and as many bare
    letters, or lines, as there are questions.
    """
    answers = _from_json(text, questions) if parser == "lenient" else None
    return answers if answers is not None else [option for option, _ in _read(text, questions, CHOOSERS[parser])]


def letter_places(text: str, questions: Sequence[Question]) -> list[int | None]:
    """The index in the reply of each question's letter, as ``parse_joint`` finds it.

    None where nothing parsed, and where the text about a question does not begin with the letter of the chosen option
    (a name, JSON, a sentence).
    """
    if _from_json(text, questions) is not None:
        return [None] * len(questions)
    read = _read(text, questions, _choose)
    return [start if option is not None and text[start] == LETTERS[option] else None for option, start in read]


def _read(text: str, questions: Sequence[Question], choose: Choose) -> list[tuple[int | None, int]]:
    """Each question's option, and where the text about it begins."""
    found: list[tuple[int | None, int]] = [(None, 0)] * len(questions)
    for index, start, segment in _segments(text, questions):
        # A model that does not stop repeats itself: its first answer counts.
        if found[index][0] is None:
            found[index] = choose(segment, questions[index]), start
    return found


def _choose_first_letter(text: str, question: Question) -> int | None:
    match = re.search("[A-D]", text)
    return _in_range(match.group(), question) if match else None


def _choose(text: str, question: Question) -> int | None:
    """The one option that the text chooses, by letter or by name."""
    text, named = _hide_names(text, question)
    if text.strip(" \t\n.,;:*\"'`") == NAME:
        return _only(named)
    hedges = {hedge.start(1) for hedge in HEDGE.finditer(text) if hedge.group(1) != hedge.group(2)}
    for cue in CUES:
        if said := [match for match in cue.finditer(text) if _is_choice(match)]:
            doubtful = any(match.start("letter") in hedges for match in said)
            return None if doubtful else _only({_in_range(match["letter"], question) for match in said})
    if hedges:
        return None
    marked = {_in_range(match["letter"] or match["bare"], question) for match in MARKED.finditer(text)}
    alone = {_in_range(match["letter"], question) for match in ALONE.finditer(text) if _is_choice(match)}
    return _only(marked or named or alone)


CHOOSERS: dict[Parser, Choose] = {"lenient": _choose, "benchmark": _choose_first_letter}


def _is_choice(match: re.Match[str]) -> bool:
    """Whether a single letter is an option's letter, rather than an article or an initial."""
    letter, text = match["letter"], match.string
    rest = text[match.end("letter") : match.end("letter") + 8]
    spoken = rest.lstrip(" \t")
    if spoken != rest and spoken.startswith(NAME):
        return True
    if letter.islower():
        enclosed = text[: match.start("letter")][-1:] in ("(", "[", "*", '"', "'") or rest[:1] in (")", ".", ":", "]")
        return enclosed or text.strip() == letter
    followed_by_word = spoken != rest and spoken[:1].isalnum()
    return not (followed_by_word and letter in "AI")  # both are words too


def _hide_names(text: str, question: Question) -> tuple[str, set[int | None]]:
    """The text with ``NAME`` in place of each option's name, and the options named; the longest names first."""
    found: set[int | None] = set()
    for index, name in sorted(enumerate(question.options), key=lambda option: -len(option[1])):
        if len(name.strip()) > 1:
            text, count = re.subn(rf"(?<!\w){re.escape(name.strip())}(?!\w)", NAME, text, flags=re.IGNORECASE)
            found |= {index} if count else set()
    return text, found


def _only(choices: set[int | None]) -> int | None:
    return next(iter(choices)) if len(choices) == 1 else None


def _in_range(letter: str, question: Question) -> int | None:
    index = LETTERS.find(letter.upper())
    return index if index < len(question.options) else None


def _segments(text: str, questions: Sequence[Question]) -> Iterator[Segment]:
    """The text about each question, by the kind of mark that separates the most questions."""
    marks = max(_all_marks(text, questions), key=lambda marks: len({index for index, _, _ in marks} - {None}))
    if all(index is None for index, _, _ in marks):
        yield from _unmarked(text, questions)
    stops = [start for _, start, _ in marks[1:]] + [len(text)]
    for (index, _, start), stop in zip(marks, stops, strict=False):
        if index is not None:
            yield index, start, text[start:stop]


def _all_marks(text: str, questions: Sequence[Question]) -> Iterator[list[Mark]]:
    yield _numbered(LABELLED, text, questions)
    levels = {fold(question.level): index for index, question in enumerate(questions)}
    names = "|".join(re.escape(level) for level in sorted(levels, key=len, reverse=True))
    pattern = re.compile(rf"(?<!\w)({names})(?!\w)[\s*_\"']*(?:\bis\b|:|=|-|–|—|→)[\s*_]*", re.IGNORECASE)
    yield [(levels.get(fold(mark.group(1))), mark.start(), mark.end()) for mark in pattern.finditer(text)]
    yield _numbered(LINE_NUMBER, text, questions)
    yield _numbered(INLINE_NUMBER, text, questions)


def _numbered(pattern: re.Pattern[str], text: str, questions: Sequence[Question]) -> list[Mark]:
    marks = [(int(mark.group(1)) - 1, mark.start(), mark.end()) for mark in pattern.finditer(text)]
    return [(number if 0 <= number < len(questions) else None, start, stop) for number, start, stop in marks]


def _unmarked(text: str, questions: Sequence[Question]) -> Iterator[Segment]:
    """Letters alone, or lines, where there are exactly as many as questions; or the text about a single question."""
    if len(questions) == 1:
        yield 0, 0, text
        return
    letters = list(re.finditer("[A-Za-z]", text)) if SEQUENCE.fullmatch(text) else []
    lines = list(re.finditer(r".*\S.*", text))
    parts = letters if len(letters) == len(questions) else lines
    if len(parts) == len(questions):
        yield from ((index, part.start(), part.group()) for index, part in enumerate(parts))


def _from_json(text: str, questions: Sequence[Question]) -> list[int | None] | None:
    """The answers of the first JSON object or list in the text that holds any."""
    for mark in re.finditer(r"[{\[]", text):
        try:
            value, _ = json.JSONDecoder().raw_decode(text, mark.start())
        except (ValueError, RecursionError):
            continue
        found: list[int | None] = [None] * len(questions)
        for index, segment in _json_segments(value, questions):
            if found[index] is None:
                found[index] = _choose(segment, questions[index])
        if found.count(None) < len(found):
            return found
    return None


def _json_segments(value: Any, questions: Sequence[Question]) -> Iterator[tuple[int, str]]:
    if isinstance(value, list):
        if len(value) == len(questions) and all(isinstance(item, str) for item in value):
            yield from enumerate(value)
        for item in value:
            if isinstance(item, dict):
                yield from _json_segments(_keyed(item), questions)
    elif isinstance(value, dict):
        for key, item in value.items():
            index = _json_index(key, questions)
            item = _keyed(item).get("", item) if isinstance(item, dict) else item
            if index is not None and isinstance(item, str):
                yield index, item
            elif isinstance(item, (list, dict)):
                yield from _json_segments(item, questions)


def _keyed(item: dict[str, Any]) -> dict[str, Any]:
    """``{"question": 2, "answer": "B"}`` as ``{"2": "B"}``; anything else as it is."""
    by_name = {fold(key): value for key, value in item.items()}
    answer = next((by_name[key] for key in ("answer", "letter", "choice", "option") if key in by_name), None)
    asked = next((by_name[key] for key in ("question", "number", "q", "id", "level") if key in by_name), "")
    return {str(asked): answer} if isinstance(answer, str) and isinstance(asked, (str, int)) else item


def _json_index(key: str, questions: Sequence[Question]) -> int | None:
    """The question that a key means: by its level's name, else by its number, else the only one there is."""
    levels = [fold(question.level) for question in questions]
    if fold(key) in levels:
        return levels.index(fold(key))
    if number := KEY_NUMBER.fullmatch(key):
        return int(number[1]) - 1 if 1 <= int(number[1]) <= len(questions) else None
    return 0 if len(questions) == 1 else None
