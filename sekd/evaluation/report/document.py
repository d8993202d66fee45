"""The parts of the report, and their rendering as HTML and Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml
from matplotlib.figure import Figure

from sekd.evaluation.report.plots import png, svg

Value = str | int | float | None
Step = tuple[str, str, bool | None]  # level, name, and whether it is right; None where there is nothing to compare with


@dataclass(frozen=True)
class Table:
    """Rows under named columns, with their plot, if any. ``note`` explains how to read it.

    A float is shown with one decimal, None as a dash.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    note: str = ""
    plot: Figure | None = None

    def numeric(self) -> list[bool]:
        columns = list(zip(*self.rows, strict=True)) or [()] * len(self.columns)
        return [i > 0 and not any(isinstance(value, str) for value in column) for i, column in enumerate(columns)]


@dataclass(frozen=True)
class Case:
    """One image with the models' paths. ``image`` is a data URI or None; ``words`` describe it."""

    title: str
    image: str | None
    words: str
    paths: Mapping[str, Sequence[Step]]


WORDS: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("words.yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Section:
    """A part of the report with its own heading; ``key`` is its anchor."""

    key: str
    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    cases: Sequence[Case] = ()


def section(
    key: str, tables: Sequence[Table], *, cases: Sequence[Case] = (), more: Sequence[str] = (), **values: Any
) -> Section | None:
    """The section with its heading and text, in which ``values`` are filled in, of ``words.yaml``; None without a
    table."""
    words = WORDS[key]
    text = [paragraph.format(**values) for paragraph in words.get("text", ())]
    return Section(key, words["title"], [*text, *more], tables, cases) if tables else None


def show(value: Value) -> str:
    """A table's value in words: one decimal for a float, thousands grouped, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.1f}".replace("-", "−")
    return f"{value:,}" if isinstance(value, int) else value


def as_html(title: str, summary: str, sections: Sequence[Section]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("sekd.evaluation.report", "")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.jinja").render(
        title=title, summary=summary, sections=sections, show=show, svg=svg
    )


def images(sections: Sequence[Section]) -> dict[str, bytes]:
    """The sections' plots as PNG files, by name."""
    return {name: png(table.plot) for section in sections for name, table in _plotted(section).items() if table.plot}


def _plotted(section: Section) -> dict[str, Table]:
    return {f"{section.key}-{i}.png": table for i, table in enumerate(section.tables, 1) if table.plot}


def as_markdown(title: str, summary: str, sections: Sequence[Section], *, folder: str | None = None) -> str:
    """The report's sentences and tables, and its plots where ``folder`` holds them as ``images`` names them."""
    lines = [f"# {title}", "", summary, ""]
    for section in sections:
        lines += [f"## {section.title}", "", *(line for text in section.text for line in (text, ""))]
        if folder:
            lines += [f"![{table.title}]({folder}/{name})\n" for name, table in _plotted(section).items()]
        for table in section.tables:
            rule = "|".join(["---", *["---:"] * (len(table.columns) - 1)])
            lines += [f"**{table.title}**", *([table.note] if table.note else []), ""]
            lines += [_markdown_row(table.columns), f"|{rule}|", *map(_markdown_row, table.rows), ""]
        for case in section.cases:
            lines += [f"**{case.title}**", ""]
            for who, steps in case.paths.items():
                names = [f"{name} (wrong)" if right is False else name for _, name, right in steps]
                lines.append(f"- {who}: {' > '.join(names)}")
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _markdown_row(values: Sequence[Value]) -> str:
    return "| " + " | ".join(show(value).replace("|", "\\|").replace("\n", " ") for value in values) + " |"
