"""A run folder -> its report: which sections, in which order, from which kept generations."""

from collections.abc import Sequence
from pathlib import Path

from sekd.answers import Parser
from sekd.evaluation.report import behaviour, comparison, making
from sekd.evaluation.report.cases import cases
from sekd.evaluation.report.depth import by_depth
from sekd.evaluation.report.document import Report, Section
from sekd.evaluation.report.render import as_html, as_json, as_markdown
from sekd.evaluation.report.skills import skills
from sekd.evaluation.report.state import state
from sekd.evaluation.scores import Bootstrap, Kept, Scores, read_run, score_run
from sekd.evaluation.students import find_students
from sekd.evaluation.table import sentence


def write_report(run: Path, *, bootstrap: Bootstrap, parser: Parser = "lenient") -> list[Path]:
    """``report.html``, ``report.md`` and ``report.json`` in the run folder; their paths.

    Raises:
        SekdError: the run has not been evaluated, or a kept file cannot be read.
    """
    kept = read_run(run, parser=parser)
    report = build_report(run, kept, score_run(kept, bootstrap=bootstrap), bootstrap=bootstrap)
    written = []
    for name, text in (
        ("report.html", as_html(report)),
        ("report.md", as_markdown(report)),
        ("report.json", as_json(report)),
    ):
        (run / name).write_text(text, encoding="utf-8")
        written.append(run / name)
    return written


def build_report(run: Path, kept: Sequence[Kept], scores: Scores, *, bootstrap: Bootstrap) -> Report:
    """The report's content; a section that has nothing to show is left out."""
    students = find_students(run)
    sections: list[Section | None] = [
        comparison.headline(scores),
        comparison.arms(scores),
        by_depth(scores),
        state(kept, bootstrap=bootstrap),
        cases(kept),
        comparison.all_metrics(scores),
        comparison.cost(scores),
        skills(run),
        behaviour.mistaken_pairs(kept),
        behaviour.calibration(kept),
        making.training(students),
        making.provenance(run, kept, students),
    ]
    return Report(f"SEKD: {run.name}", sentence(scores), [section for section in sections if section])
