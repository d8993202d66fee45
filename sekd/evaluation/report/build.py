"""A run folder -> its report: which sections, in which order."""

from pathlib import Path

from sekd.evaluation.general.outcome import read_outcomes
from sekd.evaluation.generations import read_listed
from sekd.evaluation.report import errors, sections, training
from sekd.evaluation.report.document import as_html, as_markdown
from sekd.evaluation.rescore import read_scores
from sekd.evaluation.students import find_students
from sekd.evaluation.table import sentence, tree_name


def write_report(run: Path) -> list[Path]:
    """``report.html`` and ``report.md`` in the run folder; their paths. A section with nothing to show is left out.

    Raises:
        SekdError: the run has not been evaluated, or a file cannot be read.
    """
    cells, scores, students = read_listed(run), read_scores(run), find_students(run)
    roots = {tree_name(each.cell.part, each.cell.tree): Path(each.cell.root) for each in cells}
    content = [
        sections.headline(scores),
        sections.ablation(scores),
        sections.depth(scores),
        sections.prefix_intervention(scores),
        errors.cases(scores, roots),
        sections.all_metrics(scores),
        sections.cost(scores),
        sections.skills(read_outcomes(run)),
        errors.mistakes(scores),
        errors.calibration(scores),
        training.training_curves(students),
        training.provenance(run, cells, students),
    ]
    written = []
    for name, render in (("report.html", as_html), ("report.md", as_markdown)):
        shown = [section for section in content if section]
        (run / name).write_text(render(f"SEKD: {run.name}", sentence(scores), shown), encoding="utf-8")
        written.append(run / name)
    return written
