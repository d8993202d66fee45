"""SIGINT and SIGTERM as a flag that is checked between two engine steps, instead of an exception at any point."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from sekd.errors import Stopped


class Stop:
    """A context in which signals set a flag. A second signal, or one inside ``at_once``, raises immediately.

    A worker process also stops when its parent process is gone.
    """

    def __init__(self) -> None:
        self._signum: int | None = None
        self._at_once = False
        self._error: Exception | None = None
        self._parent = os.getppid()

    def __enter__(self) -> "Stop":
        self._before = {signum: signal.signal(signum, self._handle) for signum in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        again, self._signum = self._signum is not None, signum
        if again or self._at_once:
            raise Stopped(signum)

    def fail(self, error: Exception) -> None:
        """Have the next ``check`` raise this error of another thread."""
        self._error = error

    def check(self) -> None:
        """Raise ``Stopped`` if a signal came or the parent process is gone; or the error of ``fail``."""
        if self._error is not None:
            raise self._error
        if self._signum is not None:
            raise Stopped(self._signum)
        if os.getppid() != self._parent:
            raise Stopped(signal.SIGTERM)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """For a long call that cannot check the flag, such as loading weights."""
        self.check()
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False
