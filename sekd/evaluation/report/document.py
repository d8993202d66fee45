"""What a report consists of, before it is HTML, Markdown or JSON: sections of text, tables, figures and cases."""

from collections.abc import Sequence
from dataclasses import dataclass

Value = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Rows under named columns; a float is shown with one decimal, None as a dash. ``note`` explains, in a sentence."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """Drawn panels with a caption that says what to see, a legend of (style, name), and the figures as a table."""

    title: str
    caption: str
    panels: Sequence[str]
    legend: Sequence[tuple[int, str]]
    table: Table


@dataclass(frozen=True)
class Step:
    """One level of a path: ``right`` is None where there is nothing to compare with."""

    level: str
    name: str
    right: bool | None


@dataclass(frozen=True)
class Case:
    """One image with its true path and what each way of asking answered. ``image`` is a data URI, or None."""

    title: str
    image: str | None
    alternative: str
    paths: Sequence[tuple[str, Sequence[Step]]]


@dataclass(frozen=True)
class Section:
    """A part of the report with its own heading; ``key`` is its anchor."""

    key: str
    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    cases: Sequence[Case] = ()


@dataclass(frozen=True)
class Report:
    """``summary`` is the one sentence; sections without content are left out by whoever builds the report."""

    title: str
    summary: str
    sections: Sequence[Section]


def show(value: Value) -> str:
    """A table's value in words: one decimal for a float, thousands grouped, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.1f}".replace("-", "−")
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
