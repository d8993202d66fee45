"""Benchmarks before and after, on the terminal."""

import sys

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sekd.evaluation.general.outcome import Outcome

TITLE = "Other skills, each in its own unit; differences with their paired 95 % interval"


def print_outcomes(outcomes: list[Outcome]) -> None:
    """One line a benchmark, narrow enough for 100 columns."""
    table = Table(title=TITLE, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    for i, column in enumerate(("task", "metric", "base", "student", "student − base", "interval", "samples")):
        table.add_column(column, justify="right" if i > 1 else "left", no_wrap=i > 0)
    for each in outcomes:
        bounds = "–" if each.low is None or each.high is None else f"[{each.low:+.2f}, {each.high:+.2f}]"
        figures = (f"{each.base:.2f}", f"{each.student:.2f}", f"{each.difference:+.2f}", bounds)
        row = (each.task, each.metric, *figures, "–" if each.samples is None else str(each.samples))
        table.add_row(*map(escape, row))  # rich would take an interval's brackets for markup
    Console(width=None if sys.stdout.isatty() else 100).print(table)
