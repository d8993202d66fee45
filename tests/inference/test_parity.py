"""The engine against transformers, prompt by prompt, in fp32, with images, prefix cache and captured layers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from engine_reference import LAYERS, Reference, assert_agrees, picture, relative_error

from sekd.inference.connector import AnswerPositionConnector
from sekd.inference.engine import Engine
from sekd.inference.requests import StepRequest, StepResult
from sekd.inference.schedule import Conversation
from sekd.models import ModelConfig

IMAGES, STEPS, K = 18, 4, 16
OPEN, CLOSE = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>", "<|im_end|>\n<|im_start|>assistant\n"


def prompt(number: int, step: int) -> str:
    """Conditioned prompts of the embedded model's kind: long enough that later steps find a cached prefix."""
    words = ["order", "family", "genus", "species"]
    rng = np.random.default_rng(number)
    facts = " ".join(f"{words[i % 4]} {rng.choice(['A', 'B', 'C', 'D'])}" for i in range(12 + 4 * step))
    return f"{OPEN}known {facts} {step + 1} {words[step]} A user B list C known D system{CLOSE}{step + 1}"


def ask(number: int, letters: tuple[int, ...], image: int | None = None) -> Conversation[Any]:
    image = number if image is None else image
    results = []
    for step in range(STEPS):
        request = StepRequest(prompt(number, step), picture(image), f"{image}", letters, topk=K, capture=True)
        results += yield [request]
    return number, results


@pytest.fixture(scope="module")
def reference(random_model: ModelConfig) -> Reference:
    return Reference(random_model)


@pytest.fixture(scope="module")
def letters(reference: Reference) -> tuple[int, ...]:
    return tuple(reference.processor.tokenizer.convert_tokens_to_ids(list("ABCD")))


@pytest.fixture
def few(engine: Engine, letters: tuple[int, ...]) -> dict[int, list[StepResult]]:
    return dict(engine.drive([ask(number, letters) for number in range(3)]))


def test_72_image_prompts_agree_with_transformers_to_1e_5(
    engine: Engine, reference: Reference, letters: tuple[int, ...]
) -> None:
    answered = dict(engine.drive([ask(number, letters) for number in range(IMAGES)]))
    assert sorted(answered) == list(range(IMAGES))
    for number, results in answered.items():
        for step, result in enumerate(results):
            expected = reference(prompt(number, step), picture(number))
            assert_agrees(result, expected, LAYERS)
            assert result.token_ids[0] == max(letters, key=lambda letter: expected.logprobs[letter])
            outside = np.delete(expected.logprobs, result.topk_ids)
            assert result.tail_logprob == pytest.approx(np.log(np.exp(outside).sum()), rel=1e-4)
    assert any(result.cached_tokens for results in answered.values() for result in results), "no prefix was reused"


def test_the_last_layer_gives_back_the_whole_distribution(
    few: dict[int, list[StepResult]], reference: Reference
) -> None:
    for results in few.values():
        for result in results:
            rebuilt = reference.distribution(result.hidden[-1])
            assert relative_error(rebuilt[result.topk_ids], result.topk_logprobs) <= 1e-5
            assert np.exp(np.delete(rebuilt, result.topk_ids)).sum() == pytest.approx(
                np.exp(result.tail_logprob), rel=1e-4
            )


def test_a_row_taken_one_position_early_fails(
    engine: Engine, reference: Reference, letters: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = AnswerPositionConnector._request_row

    def one_early(self: Any, wanted: Any, request_id: str, blocks: list[int]) -> None:
        self._prompt_lengths[request_id] -= 1
        exact(self, wanted, request_id, blocks)
        self._prompt_lengths[request_id] += 1

    monkeypatch.setattr(AnswerPositionConnector, "_request_row", one_early)
    ((_, results),) = engine.drive([ask(0, letters)])
    with pytest.raises(AssertionError):
        assert_agrees(results[0], reference(prompt(0, 0), picture(0)), LAYERS)


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_row_of_the_layer_next_to_it_fails(few: dict, reference: Reference, shift: int) -> None:
    layers = tuple(min(layer + shift, 4) if layer == 2 else layer for layer in LAYERS)
    with pytest.raises(AssertionError):
        assert_agrees(few[0][0], reference(prompt(0, 0), picture(0)), layers)


def test_another_image_fails(few: dict, reference: Reference) -> None:
    with pytest.raises(AssertionError):
        assert_agrees(few[0][0], reference(prompt(0, 0), picture(1)), LAYERS)


def test_rows_of_two_requests_swapped_fail(few: dict, reference: Reference) -> None:
    swapped = replace(few[0][1], hidden=few[1][1].hidden)
    with pytest.raises(AssertionError):
        assert_agrees(swapped, reference(prompt(0, 1), picture(0)), LAYERS)


def test_a_prefill_cut_into_chunks_hands_out_the_same_row(
    engine: Engine, reference: Reference, letters: tuple[int, ...]
) -> None:
    def long() -> Conversation[list[StepResult]]:
        text = prompt(0, 0).replace("known", "known " + "order A family B " * 150, 1)
        return (yield [StepRequest(text, picture(0), "0", letters, topk=K, capture=True)])

    ((result,),) = engine.drive([long()])
    assert result.prompt_tokens > engine.config.max_num_batched_tokens
    text = prompt(0, 0).replace("known", "known " + "order A family B " * 150, 1)
    assert_agrees(result, reference(text, picture(0)), LAYERS)
