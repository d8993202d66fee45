"""Progress of a pass: its counts, a progress bar, and the limit of unreadable images."""

import sys
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from tqdm import tqdm

from sekd.datasets import Dataset
from sekd.errors import SekdError
from sekd.store import Store
from sekd.store.lock import WHOLE, ShardPart
from stage1_teacher.teacher_modes import OUTSIDE

LISTED = 5  # images that are named with their faults
DELETED = "their folders below shards/ are deleted"  # only then is what a stored shard left out asked again
QUIET_SECONDS = 10.0  # seconds between two lines without a terminal


@dataclass(frozen=True)
class Stats:
    """Counts of a pass, which add up over images and shards.

    ``letter_mass`` is the sum over steps of the probability that the answer is any of the letters at all; ``reasons``
    are the reasons of the first few skipped images. ``outside`` counts images whose path has no level.
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
        parts = [
            f"{self.steps / max(seconds, 1e-9):.0f} steps/s",
            f"{self.prompt_tokens / max(seconds, 1e-9):.0f} tokens/s",
            f"prefix hits {self.prefix_hits:.0f} %",
            f"letter mass {self.letter_mass / max(self.steps, 1):.3f}",
        ]
        return ", ".join(parts + ([f"{self.skipped} unreadable"] if self.skipped else []))


@dataclass(frozen=True)
class Tolerance:
    """``share`` of a run's ``images`` may be unreadable: those of its part of the pass.

    ``before`` were skipped by earlier runs.
    """

    root: Path
    share: float
    images: int
    before: int = 0

    @classmethod
    def of(cls, store: Store, dataset: Dataset, *, share: float, part: ShardPart = WHOLE) -> "Tolerance":
        """The tolerance of a part of the pass with the skipped images of its complete shards."""
        shards = [index for index in range(store.plan.n_shards) if part.takes(index)]
        written = set(shards) - set(store.missing())
        reasons = [reason for index in written for reason in store.entry(index).skipped.values()]
        before = sum(not reason.startswith(OUTSIDE) for reason in reasons)
        images = sum(len(store.plan.examples(index)) for index in shards)
        return cls(dataset.root, share, images, before)

    def check(self, found: int, named: str = "") -> None:
        """Raise a ``SekdError`` if too large a share of the pass would be skipped."""
        bad = self.before + found
        if bad > self.share * self.images:
            stored = f". Stored shards left out {self.before} of them, and ask again once {DELETED}"
            raise SekdError(
                f"{bad} of {self.images} images cannot be read{named}, more than unreadable_share={self.share}: copy "
                f"them to {self.root} again, or raise the share{stored if self.before else ''}"
            )


def named(reasons: Sequence[str], count: int) -> str:
    """The first few of the images with their reasons, as the end of a sentence; "" if none is known."""
    shown = reasons[:LISTED]
    more = f" and {count - len(shown)} more" if count > len(shown) else ""
    return f": {', '.join(shown)}{more}" if shown else ""


class Progress:
    """Listener of the pool: adds up the stats of ``images`` and shows them. A requeued shard counts once."""

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
        """Add the counts of an image of shard ``job``.

        Raises:
            SekdError: too many images are unreadable.
        """
        if self._start is None:
            self._start = time.monotonic()
            self._bar.unpause()  # the rate excludes the engine's start
            self._bar.set_description_str("", refresh=False)
        self._open[job] = self._open.get(job, Stats()) + news
        self.stats += news
        self._tolerance.check(self.stats.skipped, named(self.stats.reasons, self.stats.skipped))
        self._bar.set_postfix_str(self.stats.describe(self.seconds), refresh=False)
        self._bar.update(self.stats.images - self._bar.n)

    def done(self, job: int, result: None) -> None:
        self._written += self._open.pop(job, Stats())

    def requeued(self, job: int) -> None:
        self._open.pop(job, None)
        self.stats = sum(self._open.values(), self._written)

    @property
    def seconds(self) -> float:
        """Since the first answer."""
        return 0.0 if self._start is None else time.monotonic() - self._start
