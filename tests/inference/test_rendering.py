"""What an image turns into is worked out once, and every later prompt is as vLLM would have made it."""

from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_reference import picture
from PIL import Image

from sekd.inference.engine import Engine
from sekd.inference.rendering import Rendering, _Beginning
from sekd.inference.requests import StepRequest
from sekd.inference.schedule import READ_AHEAD

OPEN, CLOSE = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>", "<|im_end|>\n<|im_start|>assistant\n"
QUESTIONS = ("order A user B list", "order A user B list known A family C known D system", "genus A known")


def request(text: str, image: int = 0, opening: str = OPEN) -> StepRequest:
    return StepRequest(f"{opening}{text}{CLOSE}", picture(image), f"{image}")


def pixels(image: int) -> Callable[[], Image.Image]:
    return partial(picture, image)


def by_vllm(engine: Engine, asked: StepRequest, image: int = 0) -> dict[str, Any]:
    """As vLLM itself renders a prompt about an image: it knows whether its engine has the pixels already."""
    return Rendering(engine._vllm.renderer, remembered=1).render(asked, pixels(image))


@pytest.fixture
def rendering(engine: Engine) -> Rendering:
    return Rendering(engine._vllm.renderer, remembered=2)


@pytest.fixture
def processed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Prompts that vLLM's own processor was given."""
    given: list[Any] = []
    own: Callable = engine._vllm.renderer.render_cmpl

    def counted(prompts: list[Any], *rest: Any) -> Any:
        given.extend(prompts)
        return own(prompts, *rest)

    monkeypatch.setattr(engine._vllm.renderer, "render_cmpl", counted)
    return given


def assert_same(got: dict[str, Any], expected: dict[str, Any]) -> None:
    for part in ("type", "prompt_token_ids", "mm_hashes", "mm_placeholders"):
        assert got[part] == expected[part], part
    (mine,), (theirs,) = got["mm_kwargs"]["image"], expected["mm_kwargs"]["image"]
    assert (mine is None) == (theirs is None)
    for name, value in theirs.get_data().items() if theirs else ():
        assert torch.equal(mine.get_data()[name], value), name


def test_a_later_prompt_is_as_if_it_were_the_first(engine: Engine, rendering: Rendering, processed: list[Any]) -> None:
    got = [rendering.render(request(text), pixels(0)) for text in QUESTIONS]
    assert len(processed) == 1
    for text, one in zip(QUESTIONS[1:], got[1:], strict=True):
        assert_same(one, by_vllm(engine, request(text)))
    engine.reset()
    assert_same(got[0], by_vllm(engine, request(QUESTIONS[0])))


def test_an_image_that_was_processed_ahead_gives_the_prompts_of_one_that_was_not(
    engine: Engine, rendering: Rendering, processed: list[Any]
) -> None:
    asked = [request(text) for text in QUESTIONS]
    prepared = rendering.prepare(asked[0], picture(0))
    got = [rendering.render(one, lambda: prepared) for one in asked]
    assert not processed, "it was processed twice"
    assert rendering.prepare(asked[1], known := picture(0)) is known
    for one, mine in zip(asked[1:], got[1:], strict=True):
        assert_same(mine, by_vllm(engine, one))
    engine.reset()
    assert_same(got[0], by_vllm(engine, asked[0]))


def test_what_was_processed_ahead_of_another_prompt_is_not_taken_for_this_one(
    engine: Engine, rendering: Rendering
) -> None:
    prepared = rendering.prepare(request(QUESTIONS[1]), picture(0))
    got = rendering.render(request(QUESTIONS[0]), lambda: prepared)
    engine.reset()
    assert_same(got, by_vllm(engine, request(QUESTIONS[0])))


def test_images_are_kept_apart(engine: Engine, rendering: Rendering, processed: list[Any]) -> None:
    for text in QUESTIONS[:2]:
        got = [rendering.render(request(text, image), pixels(image)) for image in (0, 1)]
    assert len(processed) == 2
    for image, one in enumerate(got):
        assert_same(one, by_vllm(engine, request(QUESTIONS[1], image), image))


def test_a_prompt_that_begins_otherwise_is_rendered_anew(engine: Engine, rendering: Rendering) -> None:
    rendering.render(request(QUESTIONS[0]), pixels(0))
    other = request(QUESTIONS[0], opening="<|im_start|>system\nlist<|im_end|>\n" + OPEN)
    assert_same(rendering.render(other, pixels(0)), by_vllm(engine, other))


def test_an_image_that_vllm_forgot_is_processed_again(
    engine: Engine, rendering: Rendering, processed: list[Any]
) -> None:
    rendering.render(request(QUESTIONS[0]), pixels(0))
    engine._vllm.renderer.clear_mm_cache()
    got = rendering.render(request(QUESTIONS[1]), pixels(0))
    assert len(processed) == 2
    engine._vllm.renderer.clear_mm_cache()
    assert_same(got, by_vllm(engine, request(QUESTIONS[1])))


def test_no_more_images_are_remembered_than_are_asked_about(rendering: Rendering, processed: list[Any]) -> None:
    for image in (0, 1, 0, 2, 0, 1):  # the third forgets the second, which was used longest ago
        rendering.render(request(QUESTIONS[0], image), pixels(image))
    assert [prompt["multi_modal_uuids"]["image"] for prompt in processed] == [["0"], ["1"], ["2"], ["1"]]


def test_a_processor_that_changes_what_follows_the_image_is_asked_every_time(
    engine: Engine, rendering: Rendering
) -> None:
    asked = request(QUESTIONS[0])
    rendered = rendering.render(asked, pixels(0))
    tokens = engine._vllm.renderer.get_tokenizer().encode(asked.prompt_text, add_special_tokens=False)
    assert _Beginning.of(tokens, rendered) is not None
    longer = {**rendered, "prompt_token_ids": [*rendered["prompt_token_ids"], 7]}
    assert _Beginning.of(tokens, longer) is None


def test_an_images_pixels_are_dropped_once_the_engine_has_taken_it(
    engine: Engine, tmp_path: Path, most_decoded: Callable[[], int]
) -> None:
    def ask(number: int) -> Generator:
        path = tmp_path / f"{number}.png"
        picture(number).save(path)
        for text in QUESTIONS:
            yield [StepRequest(f"{OPEN}{text}{CLOSE}", path, str(number))]

    assert len(list(engine.drive([ask(number) for number in range(24)]))) == 24
    assert 1 <= most_decoded() <= READ_AHEAD * engine.config.readers + 2 < engine.config.max_num_seqs
