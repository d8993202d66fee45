"""Errors for the user: one sentence each, without a traceback. Imports no other module of the package."""

import errno
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no fault of the program


class SekdError(ValueError):
    """Names what is wrong, what was expected and what to do. Entry points print it and exit with 2."""


class Stopped(KeyboardInterrupt):
    """The run was asked to stop; what is not written yet is dropped."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum

    def __str__(self) -> str:
        return signal.Signals(self.signum).name


def first_line(error: BaseException) -> str:
    """Of an error's message; its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def as_typed(text: str) -> str:
    """The text with commands as they are typed here: `sekd …` where no Makefile is, with the same words as `make …`."""
    return text if Path("Makefile").is_file() else text.replace("`make ", "`sekd ")


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn a ``SekdError`` into one line on stderr and exit status 2, a ``Stopped`` into the shell's exit status.

    A disk that takes no more is one line too, with the file where the error has one.
    """
    try:
        yield
    except Stopped as stopped:
        raise SystemExit(128 + stopped.signum) from None
    except SekdError as error:
        print(f"error: {as_typed(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in DISK:
            raise
        file = error.filename or "a file"
        print(f"error: {file} cannot be written: {error.strerror}; make room or write elsewhere", file=sys.stderr)
        raise SystemExit(2) from None
