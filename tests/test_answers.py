"""Parsing of answers: all forms and orders, failures, and the benchmark's own rule."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sekd.answers import parse_joint, parse_single
from sekd.prompts import Prompter, load_wordings
from sekd.questions import LETTERS, Question

NAMES = (
    ("Passeriformes", "Anseriformes", "Piciformes", "Apodiformes"),
    ("Corvidae", "Anatidae", "Paridae", "Tyrannidae"),
    ("sparrow", "song sparrow", "lark bunting", "747 jay"),
    ("Chuck-will's-widow", "A great tit", "Nighthawk (lesser)", "B. borealis"),
)
LEVELS = ("order", "family", "genus", "species")
QUESTIONS = tuple(
    Question(depth, level, options, 0) for depth, (level, options) in enumerate(zip(LEVELS, NAMES, strict=True))
)
ORDER, FAMILY, GENUS, SPECIES = QUESTIONS

SINGLE_FORMS = [
    "{L}",
    "{l}",
    " {L}\n",
    "({L})",
    "({l})",
    "[{L}]",
    "{L}.",
    "{l})",
    "{L}: {name}",
    "{L}. {name}",
    "{L}) {name}",
    "{L} {name}",
    "{l} {name}",
    "**{L}** – {name}",
    "**{L}. {name}**",
    "Answer: {L}",
    "answer: {L}.",
    "The answer is {L}.",
    "The correct answer is ({l}).",
    "The correct option is **{L}**, because it looks so.",
    "I would choose {L}",
    "Option {L}",
    "{name}",
    "{name}.",
    "*{name}*",
    "The image shows a bird, so it is {name}.",
    '{{"answer": "{L}"}}',
    '```json\n{{"letter": "{L}", "why": "its beak"}}\n```',
    '{{"{level}": "{name}"}}',
    "Q2: {L}. {name}",
]


@pytest.mark.parametrize("form", SINGLE_FORMS)
@pytest.mark.parametrize("question", QUESTIONS, ids=LEVELS)
def test_one_answer_is_read_however_it_is_said(form: str, question: Question) -> None:
    for index, name in enumerate(question.options):
        letter = LETTERS[index]
        text = form.format(L=letter, l=letter.lower(), name=name, level=question.level)
        assert parse_single(text, question) == index, text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?",
        "I cannot tell.",
        "A bird.",
        "A or B",
        "B, C",
        "Either (a) or (c)",
        "E",
        "(F)",
        "Passeriformes or Piciformes",
        "Aves",
        "I think it's a bird",
        "None of A, B, C, D",
        "{}",
        '{"answer": null}',
        "{" * 3000,
    ],
)
def test_what_is_no_single_choice_is_a_parse_failure(text: str) -> None:
    assert parse_single(text, ORDER) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The correct answer is B. Option A is wrong, and option D is an owl.", 1),
        ("The answer is B. I did not pick option A.", 1),
        ("I would choose B over option C", 1),
        ("B. Piciformes. Unlike A and C, it climbs.", 1),
        ("C\n\nExplanation: options A and D live elsewhere.", 2),
        ("A and C swim. The answer is B.", 1),
        ("The answer is B. No, the answer is C.", None),
        ("The answer is B or C.", None),
        ("B or C. Unlike A and D, they climb.", None),
        ("It is option B, not option C.", None),
    ],
)
def test_letters_in_an_explanation_are_no_choices(text: str, answer: int | None) -> None:
    assert parse_single(text, ORDER) == answer


def test_answers_with_explanations_are_read_in_a_joint_reply() -> None:
    explained = "Q1: The answer is B, since option A swims.\nQ2: The answer is C; option D is small.\nQ3: A\nQ4: D.\n\n"
    assert parse_joint(f"{explained}Explanation: options A and B are too large.", QUESTIONS) == [1, 2, 0, 3]


def test_the_article_a_is_no_choice_but_the_letter_before_a_name_is() -> None:
    assert parse_single("A bird of the Apodiformes", ORDER) == 3
    assert parse_single("A Apodiformes", ORDER) == 0  # the letter counts, also with another name
    assert parse_single("I see a (C)", ORDER) == 2


def test_a_name_within_a_longer_one_is_not_named() -> None:
    assert parse_single("It is a song sparrow", GENUS) == 1
    assert parse_single("It is a sparrow", GENUS) == 0
    assert parse_single("It is a sparrowhawk", GENUS) is None


def test_a_letter_that_was_not_offered_is_a_parse_failure() -> None:
    assert parse_single("D", Question(0, "order", ("x", "y", "z"), 0)) is None


def joint_forms(answers: list[int], order: list[int]) -> dict[str, str]:
    rows = [(i + 1, LEVELS[i], LETTERS[answers[i]], NAMES[i][answers[i]]) for i in order]
    in_order = sorted(rows)
    return {
        "lines": "\n".join(f"Q{n}: {letter}. {name}" for n, _, letter, name in rows),
        "bold": "\n".join(f"**Q{n}:** {letter}" for n, _, letter, _ in rows),
        "numbers": "\n".join(f"{n}. {letter}" for n, _, letter, _ in rows),
        "names": "\n".join(f"{n}) {name}" for n, _, _, name in rows),
        "bullets": "\n".join(f"- Question {n}: ({letter.lower()})" for n, _, letter, _ in rows),
        "levels": "\n".join(f"{level.title()}: {letter}. {name}" for _, level, letter, name in rows),
        "levels named": ", ".join(f"{level}: {name}" for _, level, _, name in rows),
        "labelled levels": "\n".join(f"Q{n} ({level}): {letter}) {name}" for n, level, letter, name in rows),
        "inline": ", ".join(f"{n}-{letter}" for n, _, letter, _ in rows),
        "tight": " ".join(f"{n}{letter}" for n, _, letter, _ in rows),
        "words": " ".join(f"{n} {letter} {name}" for n, _, letter, name in in_order),
        "sentences": "\n\n".join(f"Answer {n}: The answer is {letter}, {name}." for n, _, letter, name in rows),
        "json": json.dumps({f"Q{n}": letter for n, _, letter, _ in rows}),
        "json numbers": "Sure!\n```json\n" + json.dumps({str(n): name for n, _, _, name in rows}, indent=1) + "\n```",
        "json levels": json.dumps({level: f"{letter}. {name}" for _, level, letter, name in rows}),
        "json rows": json.dumps({"answers": [{"question": n, "answer": letter} for n, _, letter, _ in rows]}),
        "json nested": json.dumps({f"question {n}": {"choice": letter, "because": "A"} for n, _, letter, _ in rows}),
        "json list": json.dumps([letter for *_, letter, _ in in_order]),
        "bare letters": ", ".join(letter for *_, letter, _ in in_order),
        "bare lines": "\n".join(f"{letter}. {name}" for *_, letter, name in in_order),
        "run together": "".join(letter for *_, letter, _ in in_order),
        "after talk": "The beak is short.\n\n" + "\n".join(f"Q{n}: {letter}" for n, _, letter, _ in rows),
        "running on": "\n".join(f"Q{n}: {letter}" for n, _, letter, _ in rows) + "\nQ5: A\nQ6: B\nQ1: D",
    }


@settings(deadline=None)
@given(answers=st.lists(st.integers(0, 3), min_size=4, max_size=4), order=st.permutations(range(4)))
def test_a_joint_answer_is_read_in_every_form_and_order(answers: list[int], order: list[int]) -> None:
    for form, text in joint_forms(answers, order).items():
        assert parse_joint(text, QUESTIONS) == answers, f"{form}: {text}"


@settings(deadline=None)
@given(wording=st.sampled_from(sorted(load_wordings())), answers=st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_the_answers_that_a_student_is_taught_are_read_back(wording: str, answers: list[int]) -> None:
    text, spans = Prompter.named(wording).joint_answer(QUESTIONS, answers)
    assert parse_joint(text, QUESTIONS) == answers
    assert [text[start:stop] for start, stop in spans] == [LETTERS[answer] for answer in answers]


def test_what_is_missing_in_a_joint_answer_fails_at_its_own_level_alone() -> None:
    assert parse_joint("Q1: B\nQ3: C. lark bunting\nQ4:", QUESTIONS) == [1, None, 2, None]
    assert parse_joint("Q2: perhaps\nQ1: D", QUESTIONS) == [3, None, None, None]
    assert parse_joint("B, A", QUESTIONS) == [None] * 4
    assert parse_joint('{"Q2": "B"}', QUESTIONS) == [None, 1, None, None]
    assert parse_joint("", QUESTIONS) == [None] * 4


def test_a_number_beyond_the_questions_does_not_hide_the_answer_to_the_only_one() -> None:
    assert parse_joint("Q7: B", [ORDER]) == [1]


def test_level_numbers_are_no_question_numbers() -> None:
    questions = [Question(depth, f"level {depth + 1}", ("x", "y"), 0) for depth in (1, 2)]
    assert parse_joint("Level 2: B\nLevel 3: A", questions) == [1, 0]


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from('ABCDabcd1234 \n.:()*{}[]",Qsparow')))
def test_any_text_gives_an_offered_option_or_none(text: str) -> None:
    for parser in ("lenient", "benchmark"):
        joint = parse_joint(text, QUESTIONS, parser=parser)
        assert len(joint) == 4
        for answer in [*joint, parse_single(text, ORDER, parser=parser)]:
            assert answer is None or 0 <= answer < 4


def test_the_benchmark_parser_takes_the_first_letter_anywhere() -> None:
    assert parse_single("Answer: C", ORDER, parser="benchmark") == 0
    assert parse_single("the answer: C", ORDER, parser="benchmark") == 2
    assert parse_single("it is (b)", ORDER, parser="benchmark") is None
    assert parse_joint("Q1: The Best is C\nQ2: D", QUESTIONS[:2], parser="benchmark") == [1, 3]


def test_parsing_takes_time_in_proportion_to_the_text() -> None:
    for text in ("A " * 5000, "Q1: " * 5000, "(" * 20000, "[1, " * 3000, "*_" * 10000, "1 A " * 5000, "order: " * 3000):
        parse_joint(text, QUESTIONS)
        parse_single(text, GENUS)
