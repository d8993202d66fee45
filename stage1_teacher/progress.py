"""How a pass is getting on: one line that is redrawn on a terminal, and printed now and then elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from stage1_teacher.tally import Tally

QUIET_SECONDS = 15.0
BAR = 24


class Progress:
    """Shows tallies as they come in.

    Args:
        images: of the whole pass that are still to be asked about.
        shown: print at all.
    """

    def __init__(self, *, images: int, shown: bool) -> None:
        self._images, self._shown = images, shown
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._start: float | None = None
        self._drawn = time.monotonic()
        self.tally = Tally()

    def __enter__(self) -> "Progress":
        if self._shown and self._console.is_terminal:
            self._live.start()
            self._live.update(Text("starting the engine …"), refresh=True)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def add(self, tally: Tally) -> None:
        """Count, and draw when it is time."""
        now = time.monotonic()
        if self._start is None:
            self._start = self._drawn = now
        self.tally += tally
        pause = 0.2 if self._console.is_terminal else QUIET_SECONDS
        if self._shown and now - self._drawn >= pause:
            self._drawn = now
            self._draw(now - self._start)

    def _draw(self, seconds: float) -> None:
        line = describe(self.tally, images=self._images, seconds=seconds)
        if self._console.is_terminal:
            self._live.update(Text(line), refresh=True)
        else:
            print(line, file=sys.stderr, flush=True)

    @property
    def seconds(self) -> float:
        """Since the first answer."""
        return 0.0 if self._start is None else time.monotonic() - self._start


def describe(tally: Tally, *, images: int, seconds: float) -> str:
    """One line: how far, how fast, how much the prefix cache saves, whether the answers are letters, until when."""
    share = tally.images / max(images, 1)
    bar = "█" * round(BAR * share) + "░" * (BAR - round(BAR * share))
    rate = tally.images / max(seconds, 1e-9)
    left = (images - tally.images) / rate if rate else float("inf")
    parts = [
        f"{bar} {tally.images}/{images} images",
        f"{rate:.1f} images/s",
        f"{tally.steps / max(seconds, 1e-9):.0f} steps/s",
        f"{tally.prompt_tokens / max(seconds, 1e-9):.0f} tokens/s",
        f"prefix hits {100 * tally.cached_tokens / max(tally.prompt_tokens, 1):.0f} %",
        f"letter mass {tally.letter_mass / max(tally.steps, 1):.3f}",
        f"{clock(left)} left",
    ]
    return "  ".join(parts + ([f"{tally.skipped} unreadable"] if tally.skipped else []))


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as much of them as is needed."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
