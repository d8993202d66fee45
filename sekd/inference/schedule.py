"""Continuous scheduling of conversations: each continues as soon as its own results are complete.

A conversation is a generator about one image. It yields ``StepRequest``s, one or several concurrent ones, and is
resumed with their ``StepResult``s in the same order. Conversations are admitted in order and as many as fit, so that an
image's prefix stays in the KV cache until its last step; a running conversation's next step precedes any new image.

A few threads read and process images ahead: at most ``READ_AHEAD`` a thread wait in memory. Once the engine has an
image, its pixels are dropped, and read again if the engine needs them a second time.

The order of submissions depends only on the conversations and the engine's answers, not on how fast a file is read:
admission waits for the next image.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image

from sekd.datasets.images import DECODE_ERRORS, decode
from sekd.errors import SekdError
from sekd.inference.requests import StepRequest, StepResult, UnreadableImageError

if TYPE_CHECKING:
    from sekd.inference.engine import Engine

R = TypeVar("R")
Conversation = Generator[list[StepRequest], list[StepResult], R]
READ_AHEAD = 2  # images that may wait for each thread: at 12 megapixels 36 MB decoded, and 150 MB processed in 16 bits


def read_image(path: Path) -> Image.Image:
    """Read and decode a file as RGB.

    Raises:
        UnreadableImageError: the file is missing, truncated or no image.
    """
    try:
        return decode(path)
    except DECODE_ERRORS as error:
        raise UnreadableImageError(path, error) from error


def _pixels_of(request: StepRequest, pixels: dict[str, Any]) -> Any:
    """A request's image from ``pixels``; read again if the engine has processed it before.

    Raises:
        SekdError: the file can no longer be read.
    """
    if request.image_key not in pixels:
        given = request.image
        try:
            pixels[request.image_key] = given if isinstance(given, Image.Image) else read_image(given)
        except UnreadableImageError as error:
            raise SekdError(f"image {error}: it could be read before; put it back and run the same command") from error
    return pixels[request.image_key]


@dataclass(eq=False)
class _Running:
    """A conversation, its pending requests, and their results so far.

    Attributes:
        images: by key, those that the engine does not have yet.
        seen: keys of those that it had.
        results: by place in ``requests``.
        tokens: of its longest prompt.
    """

    conversation: Conversation
    requests: list[StepRequest] = field(default_factory=list)
    images: dict[str, Future] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    results: dict[int, StepResult] = field(default_factory=dict)
    tokens: int = 0


class Scheduler:
    """One run over a series of conversations; ``finished`` yields their return values as they end.

    Args:
        conversations: taken lazily, in order; None where there is none yet. It is asked again as long as any runs.
        concurrency: most conversations at once.
        readers: image-reading threads.
    """

    def __init__(
        self, engine: "Engine", conversations: Iterable[Conversation | None], *, concurrency: int, readers: int
    ) -> None:
        self._engine, self._conversations, self._concurrency = engine, iter(conversations), concurrency
        self._most_ahead = min(concurrency, READ_AHEAD * readers)
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="images")
        self._ahead: deque[_Running] = deque()
        self._live: set[_Running] = set()
        self._tickets: dict[str, tuple[_Running, int]] = {}
        self._longest = 0  # prompt so far, in tokens
        self._done: deque = deque()

    def finished(self) -> Iterator:
        """Return values of the conversations, in the order in which they end."""
        with self._pool:
            try:
                while self._admit() or self._tickets or self._done:
                    while self._done:
                        yield self._done.popleft()
                    if self._tickets:
                        self._take(self._engine.advance())
            finally:
                self._pool.shutdown(wait=True, cancel_futures=True)

    # --- admission ---

    def _admit(self) -> bool:
        """Start conversations while they fit; whether any was started."""
        started = False
        while self._has_room() and (running := self._next_ahead()) is not None:
            started = True
            self._live.add(running)
            self._submit(running)
        return started

    def _has_room(self) -> bool:
        taken = sum(running.tokens for running in self._live)
        fits = len(self._live) < self._concurrency and taken + self._longest <= self._engine.token_capacity
        return not self._live or fits

    def _next_ahead(self) -> _Running | None:
        while len(self._ahead) < self._most_ahead and (conversation := next(self._conversations, None)) is not None:
            running = _Running(conversation)
            if self._resume(running, None):
                self._ahead.append(running)
        return self._ahead.popleft() if self._ahead else None

    # --- running ---

    def _resume(self, running: _Running, answer: list[StepResult] | UnreadableImageError | None) -> bool:
        """Resume a conversation up to its next requests, and start reading their images; False if it has ended."""
        conversation = running.conversation
        try:
            if isinstance(answer, UnreadableImageError):
                running.requests = conversation.throw(answer)
            else:
                running.requests = conversation.send(answer)  # type: ignore[arg-type]  # None starts it
        except StopIteration as end:
            self._live.discard(running)
            self._done.append(end.value)
            return False
        assert running.requests, "a conversation asks for nothing and does not end"
        running.results = {}
        for request in running.requests:
            if request.image_key not in running.seen | running.images.keys():
                running.images[request.image_key] = self._pool.submit(self._read, request)
        return True

    def _read(self, request: StepRequest) -> Any:
        given = request.image
        return self._engine.prepare(request, given if isinstance(given, Image.Image) else read_image(given))

    def _submit(self, running: _Running) -> None:
        """Submit a conversation's requests; an unusable image is raised inside the conversation."""
        images, running.images = running.images, {}
        running.seen |= images.keys()
        tickets: list[str] = []
        try:
            pixels = {key: image.result() for key, image in images.items()}
            for place, request in enumerate(running.requests):
                ticket, tokens = self._engine.submit(request, partial(_pixels_of, request, pixels))
                tickets.append(ticket)
                self._tickets[ticket] = (running, place)
                running.tokens = max(running.tokens, tokens)
                self._longest = max(self._longest, tokens)
        except UnreadableImageError as error:
            for ticket in tickets:  # the other requests are dropped with the refused one
                del self._tickets[ticket]
            if self._resume(running, error):
                self._submit(running)

    def _take(self, finished: list[tuple[str, StepResult]]) -> None:
        for ticket, result in finished:
            if ticket not in self._tickets:
                continue
            running, place = self._tickets.pop(ticket)
            running.results[place] = result
            if len(running.results) == len(running.requests):
                answer = [running.results[place] for place in range(len(running.requests))]
                if self._resume(running, answer):
                    self._submit(running)
