"""Errors meant for the person at the keyboard: one clear sentence each, without a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class SekdError(ValueError):
    """Names what is wrong, what was expected and what to do. Entry points print it and exit with 2."""


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn a ``SekdError`` that reaches an entry point into one line on stderr and exit status 2."""
    try:
        yield
    except SekdError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
