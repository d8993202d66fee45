"""How full an engine is over a pass of ten shards: the project's own scheduling, over an engine with its own clock."""

import heapq
import random
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from sekd.inference.requests import StepRequest, StepResult
from sekd.inference.schedule import Conversation, Scheduler
from sekd.inference.strategies import Answers
from sekd.store import Layout
from stage1_teacher.worker import ask_shards

SHARDS, IMAGES, CAPACITY = 10, 512, 256  # images of a shard, and of the engine
STEPS = (4, 5, 6, 7, 8)  # an image's steps; an engine answers each in a second
SLOW, SLOW_SHARE = 2.0, 0.02  # seconds of a step of slow images, and their share
NOTHING = np.empty(0, np.int32)
RESULT = StepResult((), "", NOTHING, NOTHING, NOTHING, NOTHING, 0.0, 0.0, None, 1, 0, 0.0)
PIXELS = Image.new("RGB", (1, 1))


class SimulatedEngine:
    """The interface of ``Engine``. ``spans`` are the seconds for which so many images were in the engine."""

    token_capacity = 10**9

    def __init__(self) -> None:
        self.clock = 0.0
        self.spans: list[tuple[float, int]] = []
        self._due: list[tuple[float, int]] = []
        self._count = 0

    def reset(self) -> None:
        assert not self._due, "reset while it answers"

    def drive(self, conversations: Iterable[Conversation | None]) -> Iterator[Any]:
        yield from Scheduler(self, conversations, concurrency=CAPACITY, readers=8).finished()  # type: ignore[arg-type]

    def prepare(self, request: StepRequest, image: Image.Image) -> Image.Image:
        return image

    def submit(self, request: StepRequest, image: Callable[[], Image.Image]) -> tuple[str, int]:
        self._count += 1
        heapq.heappush(self._due, (self.clock + float(request.prompt_text), self._count))
        return str(self._count), 1

    def advance(self) -> list[tuple[str, StepResult]]:
        due = self._due[0][0]
        self.spans.append((due - self.clock, len(self._due)))
        self.clock = due
        found = []
        while self._due and self._due[0][0] == due:
            found.append((str(heapq.heappop(self._due)[1]), RESULT))
        return found

    def occupancy(self, begin: float = 0.0, end: float = 1.0) -> float:
        """Images in the engine over its capacity, between two moments as shares of the pass."""
        start, stop, now, held = begin * self.clock, end * self.clock, 0.0, 0.0
        for seconds, images in self.spans:
            held += images * max(0.0, min(now + seconds, stop) - max(now, start))
            now += seconds
        return held / (CAPACITY * (stop - start))


def _mode(strategies: Any, dataset: Any, place: int, about: Any) -> Generator[list[StepRequest], Any, Answers]:
    rng = random.Random(place)
    seconds = SLOW if rng.random() < SLOW_SHARE else 1.0
    for _ in range(rng.choice(STEPS)):
        yield [StepRequest(str(seconds), PIXELS, str(place))]
    return Answers((), ())


def simulate(*, overlap: bool) -> tuple[SimulatedEngine, list[int]]:
    """The engine after the pass, and its shards in the order in which they ended. Without overlap each shard ends
    before the next begins."""
    engine, ended, waiting = SimulatedEngine(), [], list(range(SHARDS))
    example = SimpleNamespace(id="", image=Path())
    dataset: Any = SimpleNamespace(
        examples=[example] * SHARDS * IMAGES,
        config=SimpleNamespace(by_descent=False),
        taxonomy=None,
        image_path=lambda example: example.image,
        questions=lambda example: (),
    )
    layout = Layout(k=1, layers=(), hidden_size=1, hidden_dtype="float32", vocab_size=2, letter_ids=(0, 1))
    asked: dict[str, Any] = {"mode": _mode, "layout": layout, "report": lambda index, stats: None}
    while waiting:
        shards = ask_shards(
            engine,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            dataset,
            lambda index: range(index * IMAGES, (index + 1) * IMAGES),
            waiting.pop(0),
            more=lambda: waiting.pop(0) if waiting and overlap else None,
            **asked,
        )
        ended += [index for index, _, _ in shards]
    return engine, ended


def show_occupancy() -> None:
    """Print the occupancy of each tenth of the pass, and of all of it, with and without overlap."""
    print(f"images in the engine over its capacity of {CAPACITY}, a pass of {SHARDS} shards of {IMAGES}, by tenths")
    for name, overlap in (("shards overlap", True), ("each shard drained", False)):
        engine, _ = simulate(overlap=overlap)
        tenths = " ".join(f"{engine.occupancy(part / 10, (part + 1) / 10):5.1%}" for part in range(10))
        print(f"{name:<20} {engine.occupancy():5.1%}: {tenths}; {engine.clock:.0f} s")
