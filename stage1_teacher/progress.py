"""How a pass is getting on: what was asked so far, a progress bar of it, and how many images may be left out."""

import sys
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from tqdm import tqdm

from sekd.datasets import Dataset
from sekd.errors import SekdError
from sekd.store import Store
from stage1_teacher.teacher_modes import OUTSIDE

LISTED = 5  # images that are named with what is wrong with them
QUIET_SECONDS = 10.0  # between two lines where there is no terminal


@dataclass(frozen=True)
class Stats:
    """What a pass has done, in numbers that add up over images and shards.

    ``letter_mass`` is the sum over steps of the probability that the answer is any of the letters at all; ``reasons``
    say why the first few images were skipped. ``outside`` are those whose path ended before it began.
    """

    images: int = 0
    steps: int = 0
    skipped: int = 0
    outside: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    letter_mass: float = 0.0
    reasons: tuple[str, ...] = ()

    def __add__(self, other: "Stats") -> "Stats":
        both = Stats(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))
        return replace(both, reasons=both.reasons[:LISTED])

    @property
    def prefix_hits(self) -> float:
        """Percent of the prompts' tokens that were found in the KV cache."""
        return 100 * self.cached_tokens / max(self.prompt_tokens, 1)

    def describe(self, seconds: float) -> str:
        """How fast, how much the prefix cache saves, and whether the answers are letters."""
        parts = [
            f"{self.steps / max(seconds, 1e-9):.0f} steps/s",
            f"{self.prompt_tokens / max(seconds, 1e-9):.0f} tokens/s",
            f"prefix hits {self.prefix_hits:.0f} %",
            f"letter mass {self.letter_mass / max(self.steps, 1):.3f}",
        ]
        return ", ".join(parts + ([f"{self.skipped} unreadable"] if self.skipped else []))


@dataclass(frozen=True)
class Tolerance:
    """Of all images of the pass, in whichever run and shard they are asked about, ``share`` may be unreadable.

    ``before`` were left out by earlier runs.
    """

    root: Path
    share: float
    images: int
    before: int = 0

    @classmethod
    def of(cls, store: Store, dataset: Dataset, *, share: float) -> "Tolerance":
        """What is left of the tolerance of a pass that is under way."""
        written = set(range(store.plan.n_shards)) - set(store.missing())
        reasons = [reason for index in written for reason in store.entry(index).skipped.values()]
        before = sum(not reason.startswith(OUTSIDE) for reason in reasons)
        return cls(dataset.root, share, len(dataset.examples), before)

    def check(self, found: int, named: str = "") -> None:
        """Raises:
        SekdError: with so many unreadable images in this run, too much of the pass would be left out.
        """
        bad = self.before + found
        if bad > self.share * self.images:
            raise SekdError(
                f"{bad} of {self.images} images cannot be read{named}, more than unreadable_share={self.share}: copy "
                f"them to {self.root} again, or raise the share"
            )


def named(reasons: Sequence[str], count: int) -> str:
    """The first few of so many images with their reasons, as the end of a sentence; "" where none is known."""
    shown = reasons[:LISTED]
    more = f" and {count - len(shown)} more" if count > len(shown) else ""
    return f": {', '.join(shown)}{more}" if shown else ""


class Progress:
    """Hears from the pool, adds up the stats, and shows them. Those of a shard that is asked again count once.

    Args:
        tolerance: ends a pass over which too many images turn out to be unreadable after all.
        images: of the whole pass that are still to be asked about.
        shown: print at all.
    """

    def __init__(self, tolerance: Tolerance, *, images: int, shown: bool) -> None:
        self._tolerance = tolerance
        pause = 0.2 if sys.stderr.isatty() else QUIET_SECONDS
        self._bar = tqdm(
            desc="starting the engine",
            total=images,
            unit="image",
            mininterval=pause,
            smoothing=0,
            dynamic_ncols=True,
            disable=not shown,
        )
        self._start: float | None = None
        self.stats = Stats()
        self._written = Stats()
        self._open: dict[int, Stats] = {}  # of shards that are not written yet

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def progress(self, job: int, news: Stats) -> None:
        """Count what was asked of a shard.

        Raises:
            SekdError: too many images are unreadable.
        """
        if self._start is None:
            self._start = time.monotonic()
            self._bar.unpause()  # the rate is that of the engine, not of its start
            self._bar.set_description_str("", refresh=False)
        self._open[job] = self._open.get(job, Stats()) + news
        self.stats += news
        self._tolerance.check(self.stats.skipped, named(self.stats.reasons, self.stats.skipped))
        self._bar.set_postfix_str(self.stats.describe(self.seconds), refresh=False)
        self._bar.update(self.stats.images - self._bar.n)

    def done(self, job: int, result: None) -> None:
        """A shard is written."""
        self._written += self._open.pop(job, Stats())

    def requeued(self, job: int) -> None:
        """A shard is asked again."""
        self._open.pop(job, None)
        self.stats = sum(self._open.values(), self._written)

    @property
    def seconds(self) -> float:
        """Since the first answer."""
        return 0.0 if self._start is None else time.monotonic() - self._start
