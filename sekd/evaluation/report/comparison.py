"""The report's scores: the headline, every metric, what an answer costs, and the arms of the experiment."""

from typing import Any

from sekd.evaluation.report.charts import Axis, Interval, interval_panel
from sekd.evaluation.report.document import Figure, Section, Table, Value
from sekd.evaluation.students import STUDENT
from sekd.evaluation.table import METRIC_TITLES, PARADIGM_TITLES, rows, trees

PERCENT = Axis("whole paths right, HCA (%)", 0, 100)
STYLES = {"joint": 0, "independent": 1, "conditioned": 2}
STUDENT_STYLE, OTHER_STYLE = 3, 4
Scores = dict[str, Any]


def name_of(model: str, paradigm: str) -> str:
    """A way of asking in words: the base by its paradigm, a student by name, with its paradigm when not one pass."""
    title = PARADIGM_TITLES.get(paradigm, paradigm)
    return f"{model}, {title}" if paradigm != "joint" or model == "base" else f"{model}, one pass"


def style_of(model: str, paradigm: str) -> int:
    if model == "base":
        return STYLES.get(paradigm, 5)
    return STUDENT_STYLE if (model, paradigm) == (STUDENT, "joint") else OTHER_STYLE


def headline(scores: Scores) -> Section:
    """Joint, conditioned and student with intervals, and what of the gap is recovered."""
    panels = [
        interval_panel(
            key=f"headline-{i}", title=tree, description=_described(models), x=PERCENT, rows=_intervals(models)
        )
        for i, (_, tree, models) in enumerate(trees(scores))
    ]
    columns = ("tree", "way of asking", "n", "HCA %", "low", "high")
    data = [
        (tree, name_of(model, paradigm), cell["n"], cell["hca"], *_bounds(cell))
        for _, tree, models in trees(scores)
        for model, paradigm, cell in _shown(models)
    ]
    figure = Figure(
        "Whole paths right by way of asking",
        "Each mark is the share of images whose whole path is right, its line the 95 % bootstrap interval over "
        "images. Look for the distance between the base in one pass and the base in conditioned steps, and for how "
        "far the student, in one pass, has come along it.",
        panels,
        [],
        Table("Whole paths right by way of asking", columns, data),
    )
    gaps = _gap_table(scores)
    return Section("headline", "Headline", figures=[figure], tables=[gaps] if gaps.rows else [])


def _gap_table(scores: Scores) -> Table:
    data: list[tuple[Value, ...]] = []
    for _, tree, models in trees(scores):
        for model, paradigm, cell in rows(models):
            change = cell.get("differences", {}).get("minus_base_joint", {}).get("hca")
            if paradigm != "joint" or change is None:
                continue
            gap = cell.get("gap_recovered") or {}
            data.append((tree, model, *_estimate(change), *_estimate(gap), cell.get("spread", {}).get("hca")))
    return Table(
        "Gain over the base in one pass, and share of the gap recovered",
        ("tree", "student", "gain, points", "low", "high", "gap recovered %", "low", "high", "spread over seeds"),
        data,
        "Paired over the same images. The gap is the base's conditioned steps minus its joint answers; 100 % means "
        "that one pass of the student is as good as the base's step-by-step answers.",
    )


def all_metrics(scores: Scores) -> Section:
    """Every metric of every cell with parse failures beside it."""
    names = list(METRIC_TITLES)
    columns = ("way of asking", "n", *(f"{title} %" for title in METRIC_TITLES.values()), "answers unparsed %")
    tables = [
        Table(
            f"All metrics, {tree}",
            columns,
            [
                (
                    name_of(model, paradigm),
                    cell["n"],
                    *(_interval_text(cell, name) for name in names),
                    cell["unread_answers"],
                )
                for model, paradigm, cell in rows(models)
            ],
        )
        for _, tree, models in trees(scores)
    ]
    text = [
        "HCA: the whole path is right. Leaf: the last node is. POR: share of nodes that are right. S-POR: length "
        "of the longest right beginning. TOR: share of neighbouring pairs that are both right. Brackets hold 95 % "
        "bootstrap intervals over images; ± is the standard deviation over a student's trainings.",
        "Unparsed: share of images of which at least one answer could not be read; each such answer counts as "
        "wrong. Independent and conditioned questions are held to the offered letters, so theirs is 0 by "
        "construction; joint answers are free text.",
    ]
    return Section("metrics", "All metrics", text, tables)


def cost(scores: Scores) -> Section:
    """Calls, tokens and seconds an image: what one pass saves."""
    columns = (
        "way of asking",
        "calls",
        "prompt tokens",
        "of them cached",
        "new tokens",
        "latency, ms",
        "machine time, ms",
    )
    tables = [
        Table(
            f"Cost of an image, {tree}",
            columns,
            [
                (
                    name_of(model, paradigm),
                    *(cell[key] for key in ("calls", "prompt_tokens", "cached_tokens", "new_tokens")),
                    1000 * cell["latency"],
                    1000 * cell["wall"],
                )
                for model, paradigm, cell in rows(models)
            ],
        )
        for _, tree, models in trees(scores)
    ]
    text = [
        "Means over images. Latency adds up an image's calls one after the other, each measured while others were in "
        "flight; machine time is the cell's wall-clock time divided by its images, so it counts what batching saves."
    ]
    return Section("cost", "What an answer costs", text, tables)


def arms(scores: Scores) -> Section | None:
    """The ablation: every student of the run beside the others. None where there is but one."""
    names = {model for _, _, models in trees(scores) for model in models if model != "base"}
    if len(names) < 2:
        return None
    contrast = (f"minus {STUDENT}, points", "low", "high")
    columns = ("tree", "student", "trainings", "HCA %", "spread", "low", "high", *contrast)
    panels, data = [], []
    for i, (_, tree, models) in enumerate(trees(scores)):
        cells = [(model, cell) for model, paradigm, cell in rows(models) if paradigm == "joint"]
        shown = [Interval(model, cell["hca"], *_bounds(cell), style_of(model, "joint")) for model, cell in cells]
        panels.append(
            interval_panel(
                key=f"arms-{i}", title=tree, description=_described(models, joint_only=True), x=PERCENT, rows=shown
            )
        )
        for model, cell in cells:
            spread, trainings = cell.get("spread", {}).get("hca"), len(cell.get("seeds", ())) or 1
            row = (tree, model, trainings if model != "base" else None, cell["hca"], spread, *_bounds(cell))
            data.append((*row, *_estimate(cell.get(f"minus_{STUDENT}", {}).get("hca") or {})))
    figure = Figure(
        "Students side by side, in one pass",
        "One row a student: HCA with its 95 % interval over images, the mean over its trainings. The table holds the "
        f"paired difference to the run's {STUDENT}: an interval that excludes 0 tells the two apart.",
        panels,
        [],
        Table("Students side by side", columns, data),
    )
    return Section("arms", "Ablation", figures=[figure])


def _shown(models: Scores) -> list[tuple[str, str, Scores]]:
    return [row for row in rows(models) if row[0] in ("base", STUDENT)]


def _intervals(models: Scores) -> list[Interval]:
    return [
        Interval(f"{model} {paradigm}", cell["hca"], *_bounds(cell), style_of(model, paradigm))
        for model, paradigm, cell in _shown(models)
    ]


def _described(models: Scores, *, joint_only: bool = False) -> str:
    cells = [row for row in rows(models) if row[1] == "joint"] if joint_only else _shown(models)
    parts = [
        f"{name_of(model, paradigm)} " + ("not scored" if cell["hca"] is None else f"{cell['hca']:.1f} %")
        for model, paradigm, cell in cells
    ]
    return "Share of whole paths right: " + "; ".join(parts) + "."


def _bounds(cell: Scores) -> tuple[float | None, float | None]:
    low, high = cell["intervals"]["hca"] or (None, None)
    return low, high


def _estimate(found: Scores) -> tuple[Value, Value, Value]:
    return found.get("value"), found.get("low"), found.get("high")


def _interval_text(cell: Scores, name: str) -> Value:
    if cell[name] is None:
        return None
    bounds, spread = cell["intervals"].get(name), cell.get("spread", {}).get(name)
    text = f"{cell[name]:.1f}" + (f"\u00a0±\u00a0{spread:.1f}" if spread is not None else "")
    return text + (f" [{bounds[0]:.1f},\u00a0{bounds[1]:.1f}]" if bounds else "")
