"""A report as HTML that needs no network, as Markdown, and as JSON."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from sekd.evaluation.report.document import Figure, Report, Section, Table, show
from sekd.evaluation.report.svg import key_mark


def as_html(report: Report) -> str:
    """One page with its style sheet and drawings inside it."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    here = files("sekd.evaluation.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {
        "show": show,
        "drawing": Markup,
        "key_mark": lambda style: Markup(key_mark(style)),
        "numeric_columns": _numeric_columns,
    }
    style = Markup(here.joinpath("style.css").read_text(encoding="utf-8"))
    template = environment.from_string(here.joinpath("page.html.jinja").read_text(encoding="utf-8"))
    return template.render(report=report, style=style)


def as_markdown(report: Report) -> str:
    """The report's sentences and tables, the figures by the tables behind them."""
    lines = [f"# {report.title}", "", report.summary, ""]
    for section in report.sections:
        lines += [f"## {section.title}", "", *(line for text in section.text for line in (text, ""))]
        for table in _tables(section):
            lines += [*_markdown_table(table), ""]
        lines += [line for case in section.cases for line in _markdown_case(case)]
    return "\n".join(lines).rstrip() + "\n"


def as_json(report: Report) -> str:
    """The same tables with unrounded numbers, by section."""
    sections = {
        section.key: {
            "title": section.title,
            "text": list(section.text),
            "tables": [asdict(table) for table in _tables(section)],
            "cases": [{"title": case.title, "paths": _paths(case)} for case in section.cases],
        }
        for section in report.sections
    }
    return json.dumps({"title": report.title, "summary": report.summary, "sections": sections}, indent=1) + "\n"


def _numeric_columns(table: Table) -> list[bool]:
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.columns)
    return [i > 0 and not any(isinstance(value, str) for value in column) for i, column in enumerate(columns)]


def _tables(section: Section) -> Iterator[Table]:
    yield from section.tables
    yield from (_figure_table(figure) for figure in section.figures)


def _figure_table(figure: Figure) -> Table:
    return Table(figure.title, figure.table.columns, figure.table.rows, figure.caption)


def _markdown_table(table: Table) -> list[str]:
    def line(values: list[str]) -> str:
        return "| " + " | ".join(value.replace("|", "\\|").replace("\n", " ") for value in values) + " |"

    head = [f"**{table.caption}**", *([table.note] if table.note else []), ""]
    rule = "|" + "|".join("---" if i == 0 else "---:" for i in range(len(table.columns))) + "|"
    return [*head, line(list(table.columns)), rule, *(line([show(value) for value in row]) for row in table.rows)]


def _markdown_case(case: Any) -> list[str]:
    lines = [f"**{case.title}**", ""]
    for who, steps in case.paths:
        words = [step.name if step.right is not False else f"{step.name} (wrong)" for step in steps]
        lines.append(f"- {who}: {' > '.join(words)}")
    return [*lines, ""]


def _paths(case: Any) -> dict[str, list[dict[str, Any]]]:
    return {who: [asdict(step) for step in steps] for who, steps in case.paths}
