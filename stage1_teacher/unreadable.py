"""Images that cannot be read: how many a pass may leave out, by one rule before the engine starts and while it runs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sekd.datasets import Dataset
from sekd.datasets.images import undecodable
from sekd.errors import SekdError
from sekd.store import Store
from stage1_teacher.stats import LISTED
from stage1_teacher.teacher_modes import OUTSIDE


@dataclass(frozen=True)
class Tolerance:
    """Of all images of the pass, in whichever run and shard they are asked about, ``share`` may be left out.

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


def look_at_images(dataset: Dataset, places: Iterable[int], tolerance: Tolerance, *, progress: bool) -> str | None:
    """Open the images that are to be asked about; what to say about those that do not decode.

    Raises:
        SekdError: there are more than tolerated.
    """
    bad = undecodable([dataset.image_path(dataset.examples[place]) for place in places], progress=progress)
    if not bad:
        return None
    listed = named([f"{path} ({why})" for path, why in bad.items()], len(bad))
    tolerance.check(len(bad), listed)
    return f"{len(bad)} images cannot be read and are left out{listed}"


def named(reasons: Sequence[str], count: int) -> str:
    """The first few of so many images with their reasons, as the end of a sentence; "" where none is known."""
    shown = reasons[:LISTED]
    more = f" and {count - len(shown)} more" if count > len(shown) else ""
    return f": {', '.join(shown)}{more}" if shown else ""
