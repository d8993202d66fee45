"""``python -m sekd.evaluation.report runs/<name>``: write the run's report from its ``scores.json``."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sekd.errors import exit_on_error
from sekd.evaluation.general.outcome import read_outcomes
from sekd.evaluation.generations import read_listed
from sekd.evaluation.report import run_files, sections
from sekd.evaluation.report.against import write_comparison
from sekd.evaluation.report.curves import training_curves
from sekd.evaluation.report.document import WORDS, Section, as_html, as_markdown, images
from sekd.evaluation.rescore import read_scores
from sekd.evaluation.students import TrainedStudent, find_students
from sekd.evaluation.table import sentence, tree_name
from sekd.recent import run_folder
from sekd.tracking import add_images


def write_report(run: Path) -> list[Path]:
    """``report.html`` and ``report.md`` in the run folder; their paths. A section with nothing to show is left out.

    Raises:
        SekdError: the run has not been evaluated, or a file cannot be read.
    """
    students = find_students(run)
    if (data := run_files.data_of(students)) and not data.labelled:
        content = [run_files.certainty(students), training_curves(students)]
        return _write(run, WORDS["unlabelled"]["summary"], content, students)
    cells, scores = read_listed(run), read_scores(run)
    roots = {tree_name(each.cell.part, each.cell.tree): Path(each.cell.root) for each in cells}
    content = [
        sections.headline(scores),
        sections.ablation(scores),
        sections.depth(scores),
        sections.prefix_intervention(scores),
        run_files.cases(scores, roots),
        sections.all_metrics(scores),
        sections.cost(scores),
        sections.skills(read_outcomes(run)),
        sections.mistakes(scores),
        sections.calibration(scores),
        run_files.certainty(students),
        training_curves(students),
    ]
    return _write(run, sentence(scores), content, students)


def _write(
    run: Path, summary: str, content: Sequence[Section | None], students: Sequence[TrainedStudent]
) -> list[Path]:
    shown = [section for section in content if section]
    files = {run / "report.html": as_html, run / "report.md": as_markdown}
    for file, render in files.items():
        file.write_text(render(f"SEKD: {run.name}", summary, shown), encoding="utf-8")
    for student in students:
        add_images(student.training, partial(images, shown))
    return list(files)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sekd.evaluation.report", description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, help="as runs/demo; by default the newest student's")
    parser.add_argument("--against", type=Path, help="another evaluated run: write a page that compares the two")
    arguments = parser.parse_args()
    with exit_on_error():
        run, other = run_folder(arguments.run, whole_group=True), arguments.against
        for file in write_comparison(run, other) if other else write_report(run):
            print(f"wrote {file}")


if __name__ == "__main__":
    main()
