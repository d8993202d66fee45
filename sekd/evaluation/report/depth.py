"""The paper's Figure 2 for these models: accuracy by depth, and given a right or a wrong parent."""

from collections.abc import Callable
from typing import Any

from sekd.evaluation.report.charts import Axis, Series, line_panel
from sekd.evaluation.report.comparison import name_of, style_of
from sekd.evaluation.report.document import Figure, Section, Table
from sekd.evaluation.students import STUDENT
from sekd.evaluation.table import rows, trees

ACCURACY = Axis("accuracy (%)", 0, 100)
Scores = dict[str, Any]
Level = dict[str, Any]
VIEWS: tuple[tuple[str, str, Callable[[Level], Level]], ...] = (
    ("all", "all images", lambda level: level),
    ("right", "right parent", lambda level: level["given_right_parent"]),
    ("wrong", "wrong parent", lambda level: level["given_wrong_parent"]),
)


def by_depth(scores: Scores) -> Section:
    """One figure a tree, three panels: all images, images whose parent was answered right, and wrong."""
    figures = [_figure(number, tree, models) for number, (_, tree, models) in enumerate(trees(scores))]
    text = [
        "How often the node at each level is right, coarse to fine: over all images, over those whose node one "
        "level up was answered right, and over those where it was answered wrong. A model that keeps track of its "
        "path falls when its parent is wrong; one that answers each level for itself does not."
    ]
    return Section("depth", "Accuracy by depth", text, figures=[figure for figure in figures if figure])


def _figure(number: int, tree: str, models: Scores) -> Figure | None:
    cells = [row for row in rows(models) if row[0] in ("base", STUDENT) and row[2]["per_level"]]
    if not cells:
        return None
    levels = [level["level"] for level in max((cell["per_level"] for _, _, cell in cells), key=len)]
    depth = Axis("level, coarse to fine", 0, len(levels) - 1, levels)
    panels = [
        line_panel(
            key=f"depth-{number}-{key}",
            title=f"{tree}: {title}",
            description=_described(cells, pick),
            x=depth,
            y=ACCURACY,
            series=[_series(model, paradigm, cell, pick) for model, paradigm, cell in cells],
        )
        for key, title, pick in VIEWS
    ]
    return Figure(
        f"Accuracy by depth, {tree}",
        "Left to right, the tree's levels from coarse to fine. Compare the fall of the base in one pass with the "
        "base in conditioned steps, and see at which levels the student closes the gap. Points that rest on fewer "
        "than 10 images are left out.",
        panels,
        [(style_of(model, paradigm), name_of(model, paradigm)) for model, paradigm, _ in cells],
        _table(tree, cells),
    )


def _series(model: str, paradigm: str, cell: Scores, pick: Callable[[Level], Level]) -> Series:
    values = [pick(level)["accuracy"] if pick(level)["n"] >= 10 else None for level in cell["per_level"]]
    return Series(name_of(model, paradigm), range(len(values)), values, style_of(model, paradigm))


def _table(tree: str, cells: list[tuple[str, str, Scores]]) -> Table:
    columns = ["way of asking", "level"]
    columns += [column for _, title, _ in VIEWS for column in (f"{title} %", "n")]
    data = [
        (
            name_of(model, paradigm),
            level["level"],
            *(value for _, _, pick in VIEWS for value in (pick(level)["accuracy"], pick(level)["n"])),
        )
        for model, paradigm, cell in cells
        for level in cell["per_level"]
    ]
    return Table(f"Accuracy by depth, {tree}", columns, data)


def _described(cells: list[tuple[str, str, Scores]], pick: Callable[[Level], Level]) -> str:
    parts = []
    for model, paradigm, cell in cells:
        values = [pick(level)["accuracy"] for level in cell["per_level"]]
        words = ", ".join("none" if value is None else f"{value:.0f}" for value in values)
        parts.append(f"{name_of(model, paradigm)}: {words}")
    return "Accuracy in percent by level, coarse to fine. " + "; ".join(parts) + "."
