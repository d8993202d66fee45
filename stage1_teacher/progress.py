"""How a pass is getting on: one line that is redrawn on a terminal, and printed now and then elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from stage1_teacher.stats import Stats
from stage1_teacher.unreadable import Tolerance, named

QUIET_SECONDS = 15.0
BAR = 24


class Progress:
    """Hears from the pool, adds up the stats, and shows them. Those of a shard that is asked again count once.

    Args:
        tolerance: ends a pass over which too many images turn out to be unreadable after all.
        images: of the whole pass that are still to be asked about.
        shown: print at all.
    """

    def __init__(self, tolerance: Tolerance, *, images: int, shown: bool) -> None:
        self._tolerance, self._images, self._shown = tolerance, images, shown
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._start: float | None = None
        self._drawn = time.monotonic()
        self.stats = Stats()
        self._written = Stats()
        self._open: dict[int, Stats] = {}  # of shards that are not written yet

    def __enter__(self) -> "Progress":
        if self._shown and self._console.is_terminal:
            self._live.start()
            self._live.update(Text("starting the engine …"), refresh=True)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def progress(self, job: int, news: Stats) -> None:
        """Count what was asked of a shard, and draw when it is time.

        Raises:
            SekdError: too many images are unreadable.
        """
        now = time.monotonic()
        if self._start is None:
            self._start = self._drawn = now
        self._open[job] = self._open.get(job, Stats()) + news
        self.stats += news
        self._tolerance.check(self.stats.skipped, named(self.stats.reasons, self.stats.skipped))
        pause = 0.2 if self._console.is_terminal else QUIET_SECONDS
        if self._shown and now - self._drawn >= pause:
            self._drawn = now
            self._draw(now - self._start)

    def done(self, job: int, result: None) -> None:
        """A shard is written."""
        self._written += self._open.pop(job, Stats())

    def requeued(self, job: int) -> None:
        """A shard is asked again."""
        self._open.pop(job, None)
        self.stats = sum(self._open.values(), self._written)

    def _draw(self, seconds: float) -> None:
        line = describe(self.stats, images=self._images, seconds=seconds)
        if self._console.is_terminal:
            self._live.update(Text(line), refresh=True)
        else:
            print(line, file=sys.stderr, flush=True)

    @property
    def seconds(self) -> float:
        """Since the first answer."""
        return 0.0 if self._start is None else time.monotonic() - self._start


def describe(stats: Stats, *, images: int, seconds: float) -> str:
    """One line: how far, how fast, how much the prefix cache saves, whether the answers are letters, until when."""
    share = stats.images / max(images, 1)
    bar = "█" * round(BAR * share) + "░" * (BAR - round(BAR * share))
    rate = stats.images / max(seconds, 1e-9)
    left = (images - stats.images) / rate if rate else float("inf")
    parts = [
        f"{bar} {stats.images}/{images} images",
        f"{rate:.1f} images/s",
        f"{stats.steps / max(seconds, 1e-9):.0f} steps/s",
        f"{stats.prompt_tokens / max(seconds, 1e-9):.0f} tokens/s",
        f"prefix hits {100 * stats.cached_tokens / max(stats.prompt_tokens, 1):.0f} %",
        f"letter mass {stats.letter_mass / max(stats.steps, 1):.3f}",
        f"{clock(left)} left",
    ]
    return "  ".join(parts + ([f"{stats.skipped} unreadable"] if stats.skipped else []))


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as much of them as is needed."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
