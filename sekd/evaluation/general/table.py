"""Benchmarks before and after, on the terminal."""

from rich.console import Console
from rich.table import Table

from sekd.evaluation.general.outcome import Outcome


def print_outcomes(outcomes: list[Outcome]) -> None:
    table = Table(title="In each benchmark's own unit; the difference with its paired 95 % interval")
    for i, column in enumerate(("task", "metric", "base", "student", "student − base", "interval", "samples")):
        table.add_column(column, justify="right" if i > 1 else "left")
    for each in outcomes:
        bounds = "–" if each.low is None or each.high is None else f"[{each.low:+.2f}, {each.high:+.2f}]"
        figures = (f"{each.base:.2f}", f"{each.student:.2f}", f"{each.difference:+.2f}", bounds)
        table.add_row(each.task, each.metric, *figures, "–" if each.samples is None else str(each.samples))
    Console().print(table)
