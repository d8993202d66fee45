"""Errors meant for the person at the keyboard: one clear sentence each, without a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sekd.stop import Stopped


class SekdError(ValueError):
    """Names what is wrong, what was expected and what to do. Entry points print it and exit with 2."""


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn a ``SekdError`` that reaches an entry point into one line on stderr and exit status 2.

    A run that was stopped by a signal has said so, and exits as the shell expects of one.
    """
    try:
        yield
    except Stopped as stopped:
        raise SystemExit(128 + stopped.signum) from None
    except SekdError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
