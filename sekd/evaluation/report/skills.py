"""Forgetting: what else the model can do, before and after, from what ``make general`` kept."""

from collections.abc import Sequence
from pathlib import Path

from sekd.evaluation.general.outcome import Outcome, read_outcomes
from sekd.evaluation.report.charts import Axis, Interval, interval_panel
from sekd.evaluation.report.document import Figure, Section, Table

STYLE = 3


def skills(run: Path) -> Section | None:
    """Every benchmark of base and student with the difference. None where none was run."""
    outcomes = read_outcomes(run)
    if not outcomes:
        return None
    columns = ("benchmark", "unit", "base", "student", "student − base", "low", "high", "samples")
    data = [
        (each.task, each.metric, each.base, each.student, each.difference, each.low, each.high, each.samples)
        for each in outcomes
    ]
    table = Table("Other skills before and after", columns, data)
    bounded = [each for each in outcomes if each.low is not None and each.high is not None]
    if not bounded:
        return Section("skills", "Other skills", tables=[table])
    figure = Figure(
        "Other skills, student minus base",
        "Each mark is how much the student's score differs from its base's on the same samples, in the benchmark's own "
        "unit, its line the paired 95 % bootstrap interval. A mark left of 0 whose line does not reach 0 is a skill "
        "that was lost in part; a mark at 0 one that was kept.",
        [_panel(bounded)],
        [],
        table,
    )
    return Section("skills", "Other skills", figures=[figure])


def _panel(outcomes: Sequence[Outcome]) -> str:
    lowest = min(0.0, *(each.low for each in outcomes if each.low is not None))
    highest = max(0.0, *(each.high for each in outcomes if each.high is not None))
    room = 0.1 * (highest - lowest) or 1.0
    return interval_panel(
        key="skills",
        title="student minus base",
        description="; ".join(f"{each.task}: {each.difference:+.1f}" for each in outcomes) + ".",
        x=Axis("difference, in each benchmark's unit", lowest - room, highest + room),
        rows=[Interval(each.task, each.difference, each.low, each.high, STYLE) for each in outcomes],
    )
