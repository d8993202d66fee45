"""How the answers go wrong and how sure they are: the commonest mistaken pairs, and calibration before and after."""

from collections.abc import Sequence
from itertools import groupby

from sekd.evaluation.calibration import Calibration, calibrate
from sekd.evaluation.confusion import commonest, count_pairs
from sekd.evaluation.report.charts import reliability_panel
from sekd.evaluation.report.comparison import name_of, style_of
from sekd.evaluation.report.document import Figure, Section, Table
from sekd.evaluation.scores import Kept
from sekd.evaluation.students import STUDENT
from sekd.evaluation.table import INTERVENTIONS


def _first_trainings(kept: Sequence[Kept]) -> list[Kept]:
    """The base and the student's first training, in the order of the tables."""
    shown = [each for each in kept if each.cell.model in ("base", STUDENT) and each.cell.paradigm not in INTERVENTIONS]
    key = lambda each: (each.cell.part != "in_domain", each.cell.tree, each.cell.model, each.cell.paradigm)  # noqa: E731
    groups = groupby(sorted(shown, key=lambda each: (*key(each), each.cell.seed)), key=key)
    return [next(group) for _, group in groups]


def mistaken_pairs(kept: Sequence[Kept], *, most: int = 3) -> Section | None:
    """Per tree and level, which names are taken for which, by way of asking. None where nothing was mistaken."""
    tables = []
    for tree, group in groupby(_first_trainings(kept), key=lambda each: each.cell.tree):
        counted = [(each, count_pairs(each.generations, each.answers)) for each in group]
        pairs = commonest([counts for _, counts in counted], most=most)
        columns = ("level", "true", "answered", *(name_of(e.cell.model, e.cell.paradigm) for e, _ in counted))
        rows = [
            (p.level, p.true, p.other, *(f"{c.mistaken.get(p, 0)} of {c.offered.get(p, 0)}" for _, c in counted))
            for p in pairs
        ]
        if rows:
            tables.append(Table(f"Commonest mistaken pairs, {tree}", columns, rows))
    text = [
        'The pairs that are mistaken most often over all ways of asking, a few a level. "8 of 16": of the 16 '
        "questions that offered both names, 8 were answered with the wrong one of the two."
    ]
    return Section("mistakes", "Commonest mistakes", text, tables) if tables else None


def calibration(kept: Sequence[Kept]) -> Section | None:
    """Reliability of the answer's letter before and after, per tree. None where no image has a known truth."""
    figures = []
    silent = []
    for number, (tree, group) in enumerate(groupby(_first_trainings(kept), key=lambda each: each.cell.tree)):
        found = [(each, calibrate(each.generations, each.answers)) for each in group]
        silent += [
            f"{name_of(each.cell.model, each.cell.paradigm)} on {tree} ({result.without} answers without it, "
            f"{result.unread} unread)"
            for each, result in found
            if not result.answers and result.without + result.unread
        ]
        if any(result.answers for _, result in found):
            figures.append(_figure(number, tree, found))
    if not figures and not silent:
        return None
    text = [
        "Confidence is the probability of the answered letter among the offered ones at the answer position. A "
        "calibrated model is right as often as it says: its marks lie on the dotted diagonal. ECE, the expected "
        "calibration error, is the mean distance from it, weighted by how many answers a mark stands for."
    ]
    if silent:
        text.append(f"No answer has a confidence, so there is no panel, for {'; '.join(silent)}.")
    return Section("calibration", "Calibration", text, figures=figures)


def _figure(number: int, tree: str, found: Sequence[tuple[Kept, Calibration]]) -> Figure:
    panels: list[str] = []
    for each, result in found:
        if not result.answers:
            continue
        name = name_of(each.cell.model, each.cell.paradigm)
        bins = [(b.confidence, b.accuracy, b.count) for b in result.bins]
        words = "; ".join(f"says {b.confidence:.0f} %, right {b.accuracy:.0f} %" for b in result.bins)
        panels.append(
            reliability_panel(
                key=f"calibration-{number}-{len(panels)}",
                title=f"{name}: ECE {result.error:.1f} points",
                description=f"Reliability of {name} on {tree}: {words}.",
                bins=bins,
                style=style_of(each.cell.model, each.cell.paradigm),
            )
        )
    data = [
        (name_of(each.cell.model, each.cell.paradigm), result.error, result.answers, result.without, result.unread)
        for each, result in found
    ]
    return Figure(
        f"Reliability of the answer letter, {tree}",
        "A mark below the diagonal is overconfident, above it underconfident; its area shows how many answers it "
        "holds. Compare the base in one pass with the student.",
        panels,
        [],
        Table(
            f"Calibration, {tree}",
            ("way of asking", "ECE, points", "answers", "answers without a confidence", "answers unread"),
            data,
        ),
    )
