"""The scheduler over an engine that answers from a script."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_reference import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sekd.errors import SekdError
from sekd.inference.requests import StepRequest, StepResult, UnreadableImageError, tail_logprob
from sekd.inference.schedule import READ_AHEAD, Scheduler

NOTHING = np.empty(0, np.int32)


class Scripted:
    """Answers the requests in hand after as many steps as ``delay`` says, oldest first."""

    def __init__(
        self, delay: Any = lambda text: 1, capacity: int = 10**6, tokens: int = 10, wants_pixels: str = ".0"
    ) -> None:
        self._wants_pixels = wants_pixels
        self._delay, self._capacity, self._tokens = delay, capacity, tokens
        self.waiting: dict[str, tuple[int, str]] = {}
        self.log: list[str] = []
        self.most = 0

    @property
    def token_capacity(self) -> int:
        return self._capacity

    def prepare(self, request: StepRequest, image: Image.Image) -> Image.Image:
        return image

    def submit(self, request: StepRequest, image: Callable[[], Image.Image]) -> tuple[str, int]:
        ticket = str(len(self.log))
        if request.prompt_text.endswith(self._wants_pixels):
            image()
        self.log.append(request.prompt_text)
        self.waiting[ticket] = (self._delay(request.prompt_text), request.prompt_text)
        self.most = max(self.most, len(self.waiting))
        return ticket, self._tokens

    def advance(self) -> list[tuple[str, StepResult]]:
        self.waiting = {ticket: (left - 1, text) for ticket, (left, text) in self.waiting.items()}
        done = [(ticket, text) for ticket, (left, text) in self.waiting.items() if left <= 0]
        for ticket, _ in done:
            del self.waiting[ticket]
        return [(ticket, StepResult((), text, *[NOTHING] * 4, 0.0, 0.0, None, 1, 0, 0.0)) for ticket, text in done]


def path_of(name: int, steps: int, image: Any = None) -> Generator:
    heard = []
    for step in range(steps):
        (result,) = yield [StepRequest(f"{name}.{step}", image or picture(0), str(name))]
        heard.append(result.text)
    return name, heard


def drive(engine: Scripted, conversations: Any, concurrency: int = 4) -> list:
    return list(Scheduler(engine, conversations, concurrency=concurrency, readers=2).finished())


@settings(deadline=None, max_examples=40)
@given(
    steps=st.lists(st.integers(0, 5), max_size=12),
    delays=st.lists(st.integers(1, 4), min_size=1, max_size=7),
    concurrency=st.integers(1, 6),
)
def test_every_conversation_hears_its_own_answers_and_ends_once(
    steps: list[int], delays: list[int], concurrency: int
) -> None:
    engine = Scripted(delay=lambda text: delays[sum(map(ord, text)) % len(delays)])
    ended = drive(engine, [path_of(name, count) for name, count in enumerate(steps)], concurrency)
    assert sorted(ended) == [(name, [f"{name}.{step}" for step in range(count)]) for name, count in enumerate(steps)]
    assert engine.most <= concurrency


def test_a_fast_image_does_not_wait_for_the_slowest_of_its_level() -> None:
    engine = Scripted(delay=lambda text: 50 if text == "0.0" else 1)
    ended = drive(engine, [path_of(name, 4) for name in range(8)], concurrency=2)
    assert [name for name, _ in ended][-1] == 0
    assert engine.log.index("7.3") < engine.log.index("0.1")


def test_running_images_go_on_before_new_ones_are_admitted() -> None:
    engine = Scripted()
    drive(engine, [path_of(name, 3) for name in range(6)], concurrency=2)
    order = [(int(text.split(".")[0]) // 2, int(text.split(".")[1])) for text in engine.log]
    assert order == sorted(order), "depth first: a pair of images is finished before the next pair begins"


def test_no_more_images_are_admitted_than_the_cache_holds() -> None:
    engine = Scripted(capacity=35, tokens=10)
    drive(engine, [path_of(name, 3) for name in range(6)], concurrency=6)
    assert engine.most == 3


def test_an_image_larger_than_the_cache_is_still_asked_about() -> None:
    assert len(drive(Scripted(capacity=5, tokens=10), [path_of(name, 2) for name in range(3)])) == 3


@settings(deadline=None, max_examples=40)
@given(
    widths=st.lists(st.lists(st.integers(1, 4), max_size=4), max_size=8),
    delays=st.lists(st.integers(1, 4), min_size=1, max_size=7),
)
def test_several_requests_at_once_come_back_together_in_their_order(widths: list[list[int]], delays: list[int]) -> None:
    def rounds(name: int, wide: list[int]) -> Generator:
        heard = []
        for number, width in enumerate(wide):
            results = yield [StepRequest(f"{name}.{number}.{i}", picture(0), str(name)) for i in range(width)]
            heard.append([result.text for result in results])
        return name, heard

    engine = Scripted(delay=lambda text: delays[sum(map(ord, text)) % len(delays)])
    ended = drive(engine, [rounds(name, wide) for name, wide in enumerate(widths)])
    assert sorted(ended) == [
        (name, [[f"{name}.{number}.{i}" for i in range(width)] for number, width in enumerate(wide)])
        for name, wide in enumerate(widths)
    ]


def test_submission_order_does_not_depend_on_how_fast_files_are_read(tmp_path: Path) -> None:
    large, small = tmp_path / "large.png", tmp_path / "small.png"
    picture(0, side=1500).save(large)
    picture(0, side=4).save(small)
    for _ in range(3):
        engine = Scripted()
        drive(engine, [path_of(name, 2, small if name % 3 else large) for name in range(9)], concurrency=3)
        assert [text for text in engine.log if text.endswith(".0")] == [f"{name}.0" for name in range(9)]


@pytest.mark.parametrize("readers", [1, 3])
def test_no_more_decoded_images_wait_in_memory_than_the_readers_are_ahead(
    readers: int, picture_file: Path, most_decoded: Callable[[], int]
) -> None:
    conversations = [path_of(name, 3, picture_file) for name in range(40)]
    ended = list(Scheduler(Scripted(), conversations, concurrency=32, readers=readers).finished())
    assert len(ended) == 40
    # Those that wait, the one that the engine looks at, and the one behind it that a thread has begun to read.
    assert readers <= most_decoded() <= READ_AHEAD * readers + 2


def test_an_image_that_the_engine_wants_again_is_read_again(picture_file: Path) -> None:
    engine = Scripted(wants_pixels="")
    assert drive(engine, [path_of(0, 3, picture_file)]) == [(0, ["0.0", "0.1", "0.2"])]


def test_an_image_that_is_gone_when_it_is_wanted_again_ends_the_run_by_name(picture_file: Path) -> None:
    conversation = path_of(0, 3, picture_file)

    def lose_it_after_the_first_step() -> Generator:
        result = yield next(conversation)
        picture_file.unlink()
        yield conversation.send(result)

    with pytest.raises(SekdError, match=r"picture\.png.*it could be read before"):
        drive(Scripted(wants_pixels=""), [lose_it_after_the_first_step()])


@pytest.mark.parametrize("damage", ["missing", "truncated", "no image"])
def test_an_unreadable_image_is_raised_in_its_own_conversation_and_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "bad.png"
    if damage != "missing":
        picture(0).save(path)
        path.write_bytes(path.read_bytes()[:200] if damage == "truncated" else b"no image at all")

    def careful() -> Generator:
        try:
            yield [StepRequest("x", path, "x")]
        except UnreadableImageError as error:
            return str(error)

    ended = drive(Scripted(), [path_of(0, 2), careful(), path_of(1, 2)])
    assert len(ended) == 3
    assert any("bad.png" in end for end in ended if isinstance(end, str))


def test_the_tail_is_the_rest_of_the_mass_and_minus_infinity_where_there_is_none() -> None:
    assert tail_logprob(np.log(np.array([0.5, 0.25], np.float32))) == pytest.approx(np.log(0.25))
    assert tail_logprob(np.zeros(1, np.float32)) == -np.inf
    assert tail_logprob(np.array([1e-7], np.float32)) == -np.inf
