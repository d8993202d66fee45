"""The three paradigms on the engine, held against the same prompts in transformers."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from engine_reference import LAYERS, Reference, assert_agrees, picture, relative_error

from sekd.inference.engine import Engine
from sekd.inference.requests import StepRequest
from sekd.inference.strategies import Answers, GivenAnswers, Strategies, Subject, wrong_answers
from sekd.models import ModelConfig, adapter_rank
from sekd.prompts import Prompter
from sekd.questions import Question

LEVELS = ("order", "family", "genus", "species")
OPTIONS = (
    ("user", "list", "known", "lineage"),
    ("system", "describe", "order"),
    ("A", "B", "C", "D"),
    ("1", "2", "3", "4"),
)


def subject(number: int) -> Subject:
    questions = tuple(
        Question(depth + 1, level, tuple(np.roll(options, number)), truth=None)
        for depth, (level, options) in enumerate(zip(LEVELS, OPTIONS, strict=True))
    )
    return Subject(picture(number), str(number), questions)


@pytest.fixture(scope="module")
def reference(random_model: ModelConfig) -> Reference:
    return Reference(random_model)


@pytest.fixture(scope="module")
def strategies(reference: Reference) -> Strategies:
    return Strategies(Prompter.named("terse"), reference.processor, topk=8, capture=True)


@pytest.fixture(scope="module")
def adapter(random_model: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig, get_peft_model

    from sekd.models import load_vlm

    torch.manual_seed(3)
    targets = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    vlm = get_peft_model(load_vlm(random_model, dtype=torch.float32), LoraConfig(r=4, target_modules=targets))
    for name, weight in vlm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    folder = tmp_path_factory.mktemp("adapters") / "loud"
    vlm.save_pretrained(folder)
    return folder


def run(engine: Engine, strategies: Strategies, paradigm: str, adapter: Path | None = None) -> Answers:
    (answers,) = engine.drive([strategies.ask(paradigm, subject(1))], adapter=adapter)
    return answers


def play(conversation: Any, letters: Sequence[int], answers: Sequence[int]) -> tuple[list[str], Answers]:
    """The prompts of a conversation in which each question is answered by the next of ``answers``; no engine."""
    prompts: list[str] = []

    def result(request: StepRequest) -> Any:
        prompts.append(request.prompt_text)
        return SimpleNamespace(token_ids=(letters[answers[len(prompts) - 1]],))

    asked = next(conversation)
    try:
        while True:
            asked = conversation.send([result(each) for each in asked])
    except StopIteration as end:
        return prompts, end.value


@pytest.mark.parametrize(
    ("strategy", "arguments", "before"),
    [
        ("conditioned", {}, [0, 2, 1, 1]),
        ("conditioned", {"given": (1, 1)}, [1, 1, 1, 1]),
        ("guided", {}, [0, 2, 1, 1]),
        ("guided", {"decided": (2, 1)}, [2, 1, 0, 2]),
        ("true_prefix", {}, [3, 0, 2, 1]),
        ("wrong_prefix", {}, None),
    ],
)
def test_each_step_states_the_answers_that_its_strategy_puts_before_it(
    strategies: Strategies, strategy: str, arguments: dict[str, Any], before: list[int] | None
) -> None:
    questions = tuple(
        Question(depth, level, tuple(f"{level} {letter}" for letter in "abcd"), truth)
        for depth, (level, truth) in enumerate(zip(LEVELS, (3, 0, 2, 1), strict=True))
    )
    about = Subject(picture(1), "1", questions, "image")
    if "given" in arguments:
        arguments = {"given": GivenAnswers(questions, arguments["given"])}
    prompter = strategies.prompter
    word = prompter.conditioned if strategy == "conditioned" else prompter.forced_prefix
    conversation = getattr(strategies, strategy)(about, **arguments)
    prompts, answers = play(conversation, strategies.letter_ids(4), [0, 2, 1, 1])
    first = len(arguments.get("decided", ()))
    before = list(wrong_answers(about)) if before is None else before
    expected = [word(questions, step, before) for step in range(first, 4)]
    assert prompts == [prompter.render(strategies.processor, prompt) for prompt in expected]
    assert answers.chosen == (0, 2, 1, 1)[: 4 - first]


def test_conditioned_steps_are_told_the_models_own_answers(
    engine: Engine, strategies: Strategies, reference: Reference
) -> None:
    answers = run(engine, strategies, "conditioned")
    questions, prompter = subject(1).questions, Prompter.named("terse")
    for step, result in enumerate(answers.results):
        text = prompter.render(reference.processor, prompter.conditioned(questions, step, answers.chosen))
        expected = reference(text, picture(1))
        assert_agrees(result, expected, LAYERS)
        letters = strategies.letter_ids(len(questions[step].options))
        assert answers.chosen[step] == int(np.argmax(expected.logprobs[list(letters)]))


def test_independent_levels_see_no_context(engine: Engine, strategies: Strategies, reference: Reference) -> None:
    answers = run(engine, strategies, "independent")
    prompter = Prompter.named("terse")
    for step, result in enumerate(answers.results):
        text = prompter.render(reference.processor, prompter.independent(subject(1).questions, step))
        assert_agrees(result, reference(text, picture(1)), LAYERS)


def test_a_joint_answer_is_what_transformers_generates(
    engine: Engine, strategies: Strategies, reference: Reference
) -> None:
    (result,) = run(engine, strategies, "joint").results
    prompter = Prompter.named("terse")
    text = prompter.render(reference.processor, prompter.joint(subject(1).questions))
    inputs = reference.processor(text=[text], images=[picture(1)], return_tensors="pt")
    longest = prompter.longest_answer(subject(1).questions)
    most = 64 + 2 * len(reference.processor.tokenizer(longest, add_special_tokens=False)["input_ids"])
    generated = reference.vlm.generate(**inputs, max_new_tokens=most, do_sample=False)[
        0, inputs["input_ids"].shape[1] :
    ]
    assert list(result.token_ids) == generated.tolist()
    assert result.hidden is None
    assert result.topk_ids_by_token.shape == result.topk_logprobs_by_token.shape == (len(generated), 8)
    # Greedy decoding: each token is the likeliest of its own row.
    assert result.topk_ids_by_token[:, 0].tolist() == generated.tolist()
    assert (np.diff(result.topk_logprobs_by_token, axis=1) <= 0).all()


def test_letter_mass_is_the_probability_of_the_letters(engine: Engine, reference: Reference) -> None:
    strategies = Strategies(
        Prompter.named("terse"), reference.processor, topk=engine._vllm.model_config.get_vocab_size()
    )
    result = run(engine, strategies, "independent").results[0]
    letters = strategies.letter_ids(4)
    chosen = np.isin(result.topk_ids, letters)
    assert result.letter_mass == pytest.approx(np.exp(result.topk_logprobs[chosen]).sum(), rel=1e-5)


def test_an_adapter_answers_as_in_peft_and_leaves_the_base_alone(
    engine: Engine, strategies: Strategies, reference: Reference, adapter: Path, random_model: ModelConfig
) -> None:
    from peft import PeftModel

    plain = run(engine, strategies, "independent").results
    adapted = run(engine, strategies, "independent", adapter=adapter).results
    again = run(engine, strategies, "independent").results
    tuned = Reference(random_model)
    tuned.vlm = PeftModel.from_pretrained(tuned.vlm, adapter).eval()
    prompter = Prompter.named("terse")
    for step, result in enumerate(adapted):
        text = prompter.render(tuned.processor, prompter.independent(subject(1).questions, step))
        assert_agrees(result, tuned(text, picture(1)), LAYERS)
        assert relative_error(result.topk_logprobs, plain[step].topk_logprobs) > 1e-3
        assert relative_error(again[step].topk_logprobs, plain[step].topk_logprobs) < 1e-5
    assert adapter_rank(adapter) == 4
