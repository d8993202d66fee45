"""Prompts: image first, prefixes shared between steps, letters that are the same single token everywhere."""

from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from standins import Standin
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sekd.answers import parse_joint
from sekd.errors import SekdError
from sekd.evaluation.workers import letter_positions
from sekd.models import load_processor
from sekd.prompts import Prompter, Wording, load_wordings
from sekd.questions import LETTERS, Question
from tools.pretrain_base import tiny_vlm

WORDINGS = sorted(load_wordings())
NAMES = (
    ("Anseriformes", "Passeriformes", "Apodiformes"),
    ("Anatidae", "Corvidae", "Paridae", "Apodidae"),
    ("Anas", "Corvus", "Parus", "Apus"),
    ("Common Swift", "Hooded Crow", "Chuck-will's-widow", "{great} tit"),
)
LEVELS = ("order", "family", "genus", "species")
QUESTIONS = tuple(
    Question(depth, level, options, 0) for depth, (level, options) in enumerate(zip(LEVELS, NAMES, strict=True))
)
answers = st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))

# Qwen2.5-VL's way of writing a conversation, with its default system message.
QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# How Qwen2 cuts text before byte-pair encoding.
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"]


def corpus() -> list[str]:
    prompters = [Prompter.named(name) for name in WORDINGS]
    prompts = [
        prompt
        for prompter in prompters
        for prompt in (
            prompter.joint(QUESTIONS),
            *(prompter.independent(QUESTIONS, step) for step in range(4)),
            *(prompter.conditioned(QUESTIONS, step, (0, 1, 2, 3)) for step in range(4)),
        )
    ]
    texts = [part["text"] for prompt in prompts for message in prompt.messages for part in message["content"][-1:]]
    return texts + [prompter.joint_answer(QUESTIONS, (2, 3, 1, 0))[0] for prompter in prompters]


def byte_pairs() -> PreTrainedTokenizerFast:
    """Byte-pair encoding as Qwen, Llama 3 and GPT have it: a word and the space before it are one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(corpus() * 3 + [f" {letter}" for letter in "ABCD"] * 50, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", chat_template=QWEN_TEMPLATE)


def sentence_pieces() -> PreTrainedTokenizerFast:
    """Pieces as Llama 2 and LLaVA have them: "▁" for the space, and one put before every text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    # SentencePiece never joins a letter and a punctuation mark, which are of different scripts.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.train_from_iterator(
        corpus() * 3, trainers.BpeTrainer(vocab_size=2000, special_tokens=["<unk>", *SPECIAL])
    )
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<|im_end|>", chat_template=QWEN_TEMPLATE
    )


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {"bytes": byte_pairs(), "pieces": sentence_pieces(), "words": tiny_vlm.tokenizer()}


@pytest.mark.parametrize("wording", WORDINGS)
def test_the_image_comes_first_and_the_truth_is_never_read(wording: str) -> None:
    prompter = Prompter.named(wording)
    blind = [Question(question.depth, question.level, question.options, None) for question in QUESTIONS]
    for asked, seen in [
        (prompter.joint(QUESTIONS), prompter.joint(blind)),
        (prompter.independent(QUESTIONS, 2), prompter.independent(blind, 2)),
        (prompter.conditioned(QUESTIONS, 2, (0, 1)), prompter.conditioned(blind, 2, (0, 1))),
    ]:
        assert asked == seen
        user = [message for message in asked.messages if message["role"] == "user"]
        assert [part["type"] for part in user[0]["content"]] == ["image", "text"]
        assert sum(part["type"] == "image" for message in asked.messages for part in message["content"]) == 1


@pytest.mark.parametrize("wording", WORDINGS)
def test_each_prompt_holds_its_own_questions_options_in_order_and_no_others(wording: str) -> None:
    prompter = Prompter.named(wording)
    joint = text_of(prompter.joint(QUESTIONS))
    positions = [joint.index(name) for options in NAMES for name in options]
    assert positions == sorted(positions)
    for step in range(4):
        alone = text_of(prompter.independent(QUESTIONS, step))
        for other, options in enumerate(NAMES):
            assert all((name in alone) == (other == step) for name in options)


@pytest.mark.parametrize("wording", [name for name in WORDINGS if not Prompter.named(name).wording.dialogue])
def test_conditioned_prompts_tell_the_answers_given_and_nothing_more(wording: str) -> None:
    prompter = Prompter.named(wording)
    text = text_of(prompter.conditioned(QUESTIONS, 2, (1, 3)))
    assert "Passeriformes" in text
    assert "Apodidae" in text
    assert "Anseriformes" not in text
    assert "Corvidae" not in text
    first = text_of(prompter.conditioned(QUESTIONS, 0, ()))
    assert "Known" not in first
    assert "known so" not in first


def test_terse_prompts_are_exactly_the_embedded_models() -> None:
    prompter = Prompter.named("terse")
    questions = [
        Question(1, "order", ("kelpo", "rami"), None),
        Question(2, "family", ("sula", "tuna"), None),
        Question(3, "genus", ("mopu", "lira", "sodo", "neki"), None),
    ]
    assert text_of(prompter.independent(questions, 2)) == "genus A mopu B lira C sodo D neki"
    assert prompter.independent(questions, 2).primer == ""
    turns = [message["content"][-1]["text"] for message in prompter.conditioned(questions, 1, (0,)).messages]
    assert turns == ["order A kelpo B rami", "A kelpo", "family A sula B tuna"]
    assert text_of(prompter.conditioned(questions, 0, ())) == "order A kelpo B rami"
    assert text_of(prompter.joint(questions)).startswith("1 order A kelpo B rami 2 family A sula B tuna 3 genus A")
    assert prompter.joint(questions).primer == ""
    assert prompter.joint_answer(questions, (0, 1, 1))[0] == "1 A kelpo 2 B tuna 3 B lira"


@pytest.mark.parametrize("wording", WORDINGS)
@settings(deadline=None, max_examples=10)
@given(answers=answers)
def test_every_step_shares_with_the_one_before_all_up_to_its_facts(
    tokenizers: dict[str, Any], wording: str, answers: tuple[int, ...]
) -> None:
    prompter, tokenizer = Prompter.named(wording), tokenizers["bytes"]
    texts = [prompter.render(tokenizer, prompter.conditioned(QUESTIONS, step, answers)) for step in range(4)]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    for step, (earlier, later) in enumerate(pairwise(range(4)), start=1):
        shared = tokenizer.decode(common_prefix(ids[earlier], ids[later]))
        assert "<|image_pad|>" in shared
        known = [NAMES[level][answers[level]] for level in range(step - 1)]
        assert all(name in shared for name in known), (step, shared)


@settings(deadline=None, max_examples=10)
@given(answers=answers)
def test_a_dialogues_earlier_prompt_is_whole_the_beginning_of_the_later_one(
    tokenizers: dict[str, Any], answers: tuple[int, ...]
) -> None:
    prompter, tokenizer = Prompter.named("dialogue"), tokenizers["bytes"]
    texts = [prompter.render(tokenizer, prompter.conditioned(QUESTIONS, step, answers)) for step in range(4)]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    for step, (earlier, later) in enumerate(pairwise(range(4))):
        letter = prompter.letter_ids(tokenizer, 4)[answers[step]]
        assert ids[later][: len(ids[earlier]) + 1] == [*ids[earlier], letter]


def test_where_a_template_writes_an_earlier_turn_otherwise_a_dialogue_shares_all_before_the_last_answer(
    standin: Standin,
) -> None:
    """LLaVA-OneVision's opens the turn to be written with "assistant" and a line break, an earlier one with a space."""
    processor, prompter = load_processor(standin("llava_onevision", "bfloat16")), Prompter.named("dialogue")
    texts = [prompter.render(processor, prompter.conditioned(QUESTIONS, step, (0, 1, 2, 3))) for step in range(4)]
    for earlier, later in pairwise(texts):
        opening = earlier.rindex("assistant") + len("assistant")
        assert later.startswith(earlier[:opening])
        assert not later.startswith(earlier)


@pytest.mark.parametrize(
    ("kind", "wording"),
    [*product(["bytes", "pieces"], [name for name in WORDINGS if name != "terse"]), ("words", "terse")],
)  # the embedded tokenizer knows the terse wording alone
@settings(deadline=None, max_examples=10)
@given(answers=answers)
def test_a_letter_is_the_same_token_for_teacher_and_student(
    tokenizers: dict[str, Any], kind: str, wording: str, answers: tuple[int, ...]
) -> None:
    """What follows the primer in a single-question prompt is what stands at the letter's place in the joint answer."""
    prompter, tokenizer = Prompter.named(wording), tokenizers[kind]
    joint_ids, positions = prompter.answer_tokens(tokenizer, QUESTIONS, answers)
    letters = prompter.letter_ids(tokenizer, 4)
    for step, (position, answer) in enumerate(zip(positions, answers, strict=True)):
        assert joint_ids[position] == letters[answer]
        primed = prompter.render(tokenizer, prompter.conditioned(QUESTIONS, step, answers))
        teacher = tokenizer(primed, add_special_tokens=False)["input_ids"]
        answered = tokenizer(f"{primed} {LETTERS[answer]}", add_special_tokens=False)["input_ids"]
        assert answered == [*teacher, letters[answer]]


@pytest.mark.parametrize(
    ("kind", "wording"),
    [*product(["bytes", "pieces"], [name for name in WORDINGS if name != "terse"]), ("words", "terse")],
)
@settings(deadline=None, max_examples=10)
@given(answers=answers, blank=st.sampled_from(["", " "]), more=st.sampled_from(["", "\n", " 1 A B"]))
def test_the_letters_of_a_joint_reply_are_found_where_the_wording_writes_them(
    tokenizers: dict[str, Any], kind: str, wording: str, answers: tuple[int, ...], blank: str, more: str
) -> None:
    """Whatever follows the answers, and whether or not the engine's text begins with a space."""
    prompter, tokenizer = Prompter.named(wording), tokenizers[kind]
    _, expected = prompter.answer_tokens(tokenizer, QUESTIONS, answers)
    said, _ = prompter.joint_answer(QUESTIONS, answers)
    ids = tokenizer(said + more, add_special_tokens=False)["input_ids"]
    letters = prompter.letter_ids(tokenizer, 4)
    text = blank + tokenizer.decode(ids, skip_special_tokens=True)  # as the engine writes a reply
    assert letter_positions(text, ids, QUESTIONS, letters, tokenizer) == expected


def test_a_letter_in_another_form_than_the_wordings_has_no_position(tokenizers: dict[str, Any]) -> None:
    prompter, tokenizer = Prompter.named("taxonomist"), tokenizers["bytes"]
    letters = prompter.letter_ids(tokenizer, 4)
    for said, found in (
        ("Q1: A. x\nQ2: **B**\nQ3: I would say B\nQ4: D", [True, False, False, True]),
        ('{"1": "A", "2": "B", "3": "C", "4": "D"}', [False] * 4),
        ("Q1: Anseriformes\nQ2: C. Paridae", [False, True, False, False]),
        ("I cannot tell A from B.", [False] * 4),
    ):
        ids = tokenizer(said, add_special_tokens=False)["input_ids"]
        positions = letter_positions(said, ids, QUESTIONS, letters, tokenizer)
        assert [position is not None for position in positions] == found, said
        parsed = parse_joint(said, QUESTIONS)
        assert all(ids[p] == letters[a or 0] for p, a in zip(positions, parsed, strict=True) if p is not None)


def test_a_letter_that_is_not_a_token_of_its_own_is_an_error() -> None:
    characters = Tokenizer(models.WordLevel({"[UNK]": 0, "Q": 1, " ": 2, "A": 3}, unk_token="[UNK]"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=characters, unk_token="[UNK]")
    with pytest.raises(SekdError, match="not one token"):
        Prompter.named("taxonomist").letter_ids(tokenizer, 4)


def test_letters_that_a_tokenizer_does_not_tell_apart_are_an_error() -> None:
    with pytest.raises(SekdError, match="tell the letters apart"):
        Prompter.named("terse").letter_ids(tiny_vlm.tokenizer(), 6)  # it knows A to D alone


def test_a_letter_that_merges_with_what_follows_it_is_an_error(tokenizers: dict[str, Any]) -> None:
    """A wording that glues the name to the letter would give the student another token than the teacher's."""
    glued = Prompter(Wording(**{**vars(load_wordings()["taxonomist"]), "name": "glued", "named": "{name}"}))
    with pytest.raises(SekdError, match="choose another wording"):
        glued.answer_tokens(tokenizers["bytes"], [Question(0, "genus", ("pus", "nas"), None)], (0,))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "no chat template"),
        ("{% for message in messages %}{{ message['role'] }}\n{% endfor %}", "drops the user's text"),
    ],
)
def test_a_model_that_cannot_be_asked_says_why(template: str | None, said: str) -> None:
    tokenizer = tiny_vlm.tokenizer()
    tokenizer.chat_template = template
    prompter = Prompter.named("terse")
    with pytest.raises(SekdError, match=said):
        prompter.render(tokenizer, prompter.joint(QUESTIONS))


def test_the_identity_changes_with_any_template_and_not_with_its_name() -> None:
    entry = vars(load_wordings()["plain"])
    original = Prompter(Wording(**entry)).identity()
    assert Prompter(Wording(**{**entry, "name": "other"})).identity() == original
    for template, value in entry.items():
        if template not in ("name", "system", "dialogue"):
            edited = f"{value or entry['question']}." if template != "primer" else "A:"
            changed = Prompter(Wording(**{**entry, template: edited})).identity()
            assert changed != original


@pytest.mark.parametrize(("template", "value"), [("question", "{number} {options}"), ("fact", "{level} {truth}")])
def test_a_template_that_leaves_out_or_adds_a_field_is_an_error(template: str, value: str) -> None:
    with pytest.raises(SekdError, match=f"template '{template}' must fill in"):
        Wording(**{**vars(load_wordings()["plain"]), template: value})


def test_an_unknown_wording_lists_the_known_ones() -> None:
    with pytest.raises(SekdError, match="taxonomist"):
        Prompter.named("shout")


def text_of(prompt: Any) -> str:
    """The first user message's text."""
    user = next(message for message in prompt.messages if message["role"] == "user")
    return str(user["content"][-1]["text"])


def common_prefix(first: list[int], second: list[int]) -> list[int]:
    length = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))
    return first[:length]
