"""Rounds of interleaved measurements, their spread, and the machine they were taken on."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sekd.store.provenance import machine, software


def interleaved(arms: Mapping[str, Callable[[], float]], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of every arm in every round. Arms take turns, so a machine that slows down slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds):
        names = list(arms) if number % 2 == 0 else list(arms)[::-1]
        for name in names:
            seconds[name].append(arms[name]())
    return seconds


def timed(job: Callable[[], Any], *, times: int = 1) -> Callable[[], float]:
    """An arm of ``interleaved``: seconds of one ``job``, the mean of ``times``. Runs it once before, to warm up."""
    job()

    def run() -> float:
        begin = time.perf_counter()
        for _ in range(times):
            job()
        return (time.perf_counter() - begin) / times

    return run


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Round by round, how many times longer ``above`` took than ``below``: median, least and most."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def described() -> dict[str, Any]:
    """Machine and versions."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        **machine(),
        **software(),
    }


def show_ratio(value: Mapping[str, float]) -> str:
    """ "2.31 (2.20 to 2.40)"."""
    return f"{value['median']:.2f} ({value['least']:.2f} to {value['most']:.2f})"


def table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print one table."""
    console = Console(width=120)
    if title:
        console.print(f"\n{title}", style="italic", highlight=False)
    shown = Table(box=None, pad_edge=False)
    for index, heading in enumerate(headings):
        shown.add_column(heading, justify="left" if index == 0 else "right")
    for row in rows:
        shown.add_row(*row)
    console.print(shown)


def save(results: Mapping[str, Any], path: Path) -> None:
    """Write results as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"results: {path}")
