"""Continuous scheduling of conversations: each goes on as soon as its own last result is known.

A conversation is a generator about one image that yields a ``StepRequest`` (or a list of them, to be asked at once)
and is resumed with the ``StepResult`` (or their list). Conversations are admitted in order and never more at once than
fit, so that an image's prefix stays in the KV cache from its first step to its last; a running conversation's next step
goes ahead of any new image.

Images are read ahead by a few threads: at most ``READ_AHEAD`` a thread wait in memory, however many conversations are
open. Once the engine has taken an image, its pixels are dropped, and read again in the rare case that the engine wants
them a second time.

The order of submissions depends on the conversations and the engine's answers alone, never on how fast a
file was read: admission waits for the next image rather than take another one first.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from PIL import Image

from sekd.datasets.images import DECODE_ERRORS, decode
from sekd.errors import SekdError
from sekd.inference.requests import StepRequest, StepResult, UnreadableImageError

R = TypeVar("R")
Conversation = Generator[StepRequest | list[StepRequest], Any, R]
READ_AHEAD = 2  # decoded images a reading thread that may wait for the engine: 36 MB each at 12 megapixels


class Asking(Protocol):
    """The engine as the scheduler sees it."""

    def submit(self, request: StepRequest, image: Callable[[], Image.Image]) -> tuple[str, int]:
        """Queue a request: its ticket, and the length of its prompt in tokens. Calls ``image`` if it needs pixels."""

    def advance(self) -> list[tuple[str, StepResult]]:
        """Run one step: the tickets that are finished, with their results."""

    @property
    def token_capacity(self) -> int:
        """Tokens that the KV cache holds."""


def read_image(path: Path) -> Image.Image:
    """Read and decode a file as RGB.

    Raises:
        UnreadableImageError: the file is missing, truncated or no image.
    """
    try:
        return decode(path)
    except DECODE_ERRORS as error:
        raise UnreadableImageError(path, error) from error


def _pixels_of(request: StepRequest, pixels: dict[str, Image.Image]) -> Image.Image:
    """A request's image, kept in ``pixels``; read again where the engine has taken it before and wants it once more.

    Raises:
        SekdError: the file could be read at first, and no longer.
    """
    if request.image_key not in pixels:
        given = request.image
        try:
            pixels[request.image_key] = given if isinstance(given, Image.Image) else read_image(given)
        except UnreadableImageError as error:
            raise SekdError(f"image {error}: it could be read before; put it back and run the same command") from error
    return pixels[request.image_key]


@dataclass
class _Running:
    """A conversation, the images that it is about to ask about, and the answers it waits for.

    Attributes:
        images: those that the engine has not taken yet, by key.
        seen: keys of those that it has taken.
    """

    conversation: Conversation
    asked: StepRequest | list[StepRequest]
    images: dict[str, Future] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    results: list[StepResult | None] = field(default_factory=list)
    waiting: int = 0
    tokens: int = 0

    @property
    def requests(self) -> list[StepRequest]:
        return self.asked if isinstance(self.asked, list) else [self.asked]


class Drive:
    """One run over a series of conversations; ``finished`` yields their return values as they end.

    Args:
        asking: the engine.
        conversations: taken lazily, in order.
        concurrency: most conversations at once.
        readers: image-reading threads.
    """

    def __init__(
        self, asking: Asking, conversations: Iterable[Conversation], *, concurrency: int, readers: int
    ) -> None:
        assert concurrency > 0, concurrency
        self._asking, self._conversations = asking, iter(conversations)
        self._concurrency = concurrency
        self._most_ahead = min(concurrency, READ_AHEAD * readers)
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="images")
        self._ahead: deque[_Running] = deque()
        self._done: deque = deque()
        self._tickets: dict[str, tuple[_Running, int]] = {}
        self._live: set[int] = set()
        self._live_tokens = self._longest = 0

    def finished(self) -> Iterator:
        """Return values of the conversations, in the order in which they end."""
        with self._pool:
            try:
                while self._admit() or self._tickets or self._done:
                    while self._done:
                        yield self._done.popleft()
                    if self._tickets:
                        self._take(self._asking.advance())
            finally:
                self._pool.shutdown(wait=True, cancel_futures=True)

    # --- admission ---

    def _admit(self) -> bool:
        """Start conversations while there is room; whether any was started."""
        started = False
        while self._has_room() and (running := self._next_ahead()) is not None:
            started = True
            self._live.add(id(running))
            self._submit(running)
        return started

    def _has_room(self) -> bool:
        if not self._live:
            return True
        fits = self._live_tokens + self._longest <= self._asking.token_capacity
        return len(self._live) < self._concurrency and fits

    def _next_ahead(self) -> _Running | None:
        while len(self._ahead) < self._most_ahead and (conversation := next(self._conversations, None)) is not None:
            try:
                running = _Running(conversation, next(conversation))
            except StopIteration as end:
                self._done.append(end.value)
                continue
            self._read_images(running)
            self._ahead.append(running)
        return self._ahead.popleft() if self._ahead else None

    def _read_images(self, running: _Running) -> None:
        """Start reading the images that are new to this conversation."""
        for request in running.requests:
            if request.image_key not in running.seen | running.images.keys():
                running.images[request.image_key] = self._read(request)

    def _read(self, request: StepRequest) -> Future:
        if not isinstance(request.image, Image.Image):
            return self._pool.submit(read_image, request.image)
        given: Future = Future()
        given.set_result(request.image)
        return given

    # --- running ---

    def _submit(self, running: _Running) -> None:
        """Ask what a conversation wants to know next; an image that is of no use is raised inside the conversation."""
        images, running.images = running.images, {}
        running.seen |= images.keys()
        try:
            pixels = {key: image.result() for key, image in images.items()}
        except UnreadableImageError as error:
            self._resume(running, error)
            return
        requests = running.requests
        running.results = [None] * len(requests)
        running.waiting = len(requests)
        tickets = []
        try:
            for slot, request in enumerate(requests):
                ticket, tokens = self._asking.submit(request, partial(_pixels_of, request, pixels))
                tickets.append(ticket)
                self._tickets[ticket] = (running, slot)
                self._note_length(running, tokens)
        except UnreadableImageError as error:
            for ticket in tickets:  # their answers are of no use without the refused one's
                del self._tickets[ticket]
            self._resume(running, error)

    def _note_length(self, running: _Running, tokens: int) -> None:
        grown = max(0, tokens - running.tokens)
        running.tokens += grown
        self._live_tokens += grown
        self._longest = max(self._longest, tokens)

    def _take(self, finished: list[tuple[str, StepResult]]) -> None:
        for ticket, result in finished:
            if ticket not in self._tickets:
                continue
            running, slot = self._tickets.pop(ticket)
            running.results[slot] = result
            running.waiting -= 1
            if running.waiting == 0:
                answer = running.results if isinstance(running.asked, list) else running.results[0]
                self._resume(running, answer)

    def _resume(self, running: _Running, answer: Any) -> None:
        try:
            if isinstance(answer, UnreadableImageError):
                running.asked = running.conversation.throw(answer)
            else:
                running.asked = running.conversation.send(answer)
        except StopIteration as end:
            self._live.discard(id(running))
            self._live_tokens -= running.tokens
            self._done.append(end.value)
            return
        self._read_images(running)
        self._submit(running)
