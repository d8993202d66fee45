"""Rounds in which the arms of a comparison take turns, and the ratios of their times."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from sekd.provenance import machine, software


@dataclass(frozen=True)
class Comparison:
    """Seconds of every arm in every round.

    Attributes:
        seconds: arm -> seconds [round], for one unit of work.
        ratios: pairs of arms; the time of the first over the time of the second is shown.
        notes: further figures, a sentence each.
    """

    title: str
    seconds: Mapping[str, list[float]]
    ratios: list[tuple[str, str]]
    notes: list[str] = field(default_factory=list)

    def ratio(self, above: str, below: str) -> dict[str, float]:
        """Median, least and most over the rounds."""
        ratios = [a / b for a, b in zip(self.seconds[above], self.seconds[below], strict=True)]
        return {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: all fields, with the ratios' values."""
        return asdict(self) | {"ratios": {f"{a} / {b}": self.ratio(a, b) for a, b in self.ratios}}

    def show(self) -> None:
        """Print the arms, the ratios and the notes."""
        console = Console(width=120, highlight=False)
        arms = Table("arm", "ms (median)", box=None, pad_edge=False)
        for arm, seconds in self.seconds.items():
            arms.add_row(arm, f"{1000 * statistics.median(seconds):.4g}")
        ratios = Table("ratio of times", "median (least to most)", box=None, pad_edge=False)
        for (above, below), found in zip(self.ratios, self.to_dict()["ratios"].values(), strict=True):
            ratios.add_row(f"{above} / {below}", "{median:.2f} ({least:.2f} to {most:.2f})".format(**found))
        for part in (f"\n{self.title}", arms, *([ratios] if self.ratios else []), *self.notes):
            console.print(part)


def take_turns(arms: Mapping[str, Callable[[], float]], *, rounds: int) -> dict[str, list[float]]:
    """Arm -> seconds [round]. The arms alternate, so a machine that slows down slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds):
        for name in list(arms)[:: -1 if number % 2 else 1]:
            seconds[name].append(arms[name]())
    return seconds


def timed(job: Callable[[], Any], *, units: int = 1) -> Callable[[], float]:
    """An arm: seconds of one ``job`` divided by ``units``. Runs the job once now, to warm up."""
    job()

    def run() -> float:
        begin = time.perf_counter()
        job()
        return (time.perf_counter() - begin) / units

    return run


def machine_and_versions() -> dict[str, Any]:
    """What the figures depend on."""
    return {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0], **machine(), **software()}
