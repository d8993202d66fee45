"""The sections with the numbers of ``scores.json``, which are not computed again."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sekd.evaluation.general.outcome import Outcome
from sekd.evaluation.report import plots
from sekd.evaluation.report.document import WORDS, Section, Table, Value, section
from sekd.evaluation.report.plots import Interval, Line
from sekd.evaluation.students import STUDENT
from sekd.evaluation.table import METRIC_TITLES, PARADIGM_TITLES, rows, trees

Scores = dict[str, Any]
Row = tuple[str, str, Scores]  # model, way of answering, cell
STYLES = {"joint": 0, "independent": 1, "conditioned": 2}
PREFIXES = {"guided": ("its own answers", 3), "true_prefix": ("true answers", 2), "wrong_prefix": ("wrong answers", 0)}
COSTS = {
    "calls": "calls",
    "prompt_tokens": "prompt tokens",
    "cached_tokens": "of them cached",
    "new_tokens": "new tokens",
}
PARENTS: Mapping[str, Callable[[Scores], Scores]] = {
    "all images": lambda level: level,
    "right parent": lambda level: level["given_right_parent"],
    "wrong parent": lambda level: level["given_wrong_parent"],
}


def name_of(model: str, paradigm: str) -> str:
    title = PARADIGM_TITLES.get(paradigm, paradigm)
    return f"{model}, one pass" if paradigm == "joint" and model != "base" else f"{model}, {title}"


def style_of(model: str, paradigm: str) -> int:
    if model == "base":
        return STYLES.get(paradigm, 5)
    return 3 if (model, paradigm) == (STUDENT, "joint") else 4


def base_and_student(scores: Scores) -> dict[str, list[Row]]:
    """The cells of the base and of the run's main student, by tree."""
    return {tree: [row for row in rows(models) if row[0] in ("base", STUDENT)] for _, tree, models in trees(scores)}


def headline(scores: Scores) -> Section | None:
    figure = Table(
        "Whole paths right by way of asking",
        ("tree", "way of asking", "n", "HCA %", "low", "high"),
        [
            (tree, name_of(model, way), cell["n"], cell["hca"], *_bounds(cell))
            for tree, cells in base_and_student(scores).items()
            for model, way, cell in cells
        ],
        WORDS["headline"]["figure"],
        hca_plot(base_and_student(scores)),
    )
    gaps = [
        (tree, model, *_estimate(gain), *_estimate(cell.get("gap_recovered")), cell.get("spread", {}).get("hca"))
        for _, tree, models in trees(scores)
        for model, way, cell in rows(models)
        for gain in [cell.get("differences", {}).get("minus_base_joint", {}).get("hca")]
        if way == "joint" and gain
    ]
    gained = Table(
        "Gain over the base in one pass, and share of the gap recovered",
        ("tree", "student", "gain, points", "low", "high", "gap recovered %", "low", "high", "spread over seeds"),
        gaps,
        WORDS["headline"]["gained"],
    )
    return section("headline", [figure, gained] if gaps else [figure])


def hca_plot(shown: Mapping[str, Sequence[Row]]) -> Any:
    """HCA with its interval, a panel a tree, a row a way of asking."""
    panels = {
        tree: [
            Interval(f"{model} {way}", cell["hca"], *_bounds(cell), style_of(model, way)) for model, way, cell in cells
        ]
        for tree, cells in shown.items()
    }
    return plots.intervals(panels, "whole paths right, HCA (%)", limits=(0, 100))


def ablation(scores: Scores) -> Section | None:
    """All students of the run in one pass. None if there is only one."""
    shown = {tree: [row for row in rows(models) if row[1] == "joint"] for _, tree, models in trees(scores)}
    if len({model for cells in shown.values() for model, _, _ in cells if model != "base"}) < 2:
        return None
    figure = Table(
        "Students side by side, in one pass",
        ("tree", "student", "trainings", "HCA %", "spread", "low", "high", f"minus {STUDENT}, points", "low", "high"),
        [
            (
                *(tree, model, None if model == "base" else len(cell.get("seeds", ())) or 1),
                *(cell["hca"], cell.get("spread", {}).get("hca"), *_bounds(cell)),
                *_estimate(cell.get(f"minus_{STUDENT}", {}).get("hca")),
            )
            for tree, cells in shown.items()
            for model, _, cell in cells
        ],
        WORDS["arms"]["figure"],
        hca_plot(shown),
    )
    return section("arms", [figure])


def depth(scores: Scores) -> Section | None:
    """The paper's Figure 2 for these models: accuracy by level, over all images and by the parent's answer."""
    figures = []
    columns = ["way of asking", "level", *(name for parent in PARENTS for name in (f"{parent} %", "n"))]
    for tree, found in base_and_student(scores).items():
        cells = [(name_of(*row[:2]), style_of(*row[:2]), row[2]["per_level"]) for row in found if row[2]["per_level"]]
        if not cells:
            continue
        panels = {
            parent: [_line(name, map(pick, levels), style, least=10) for name, style, levels in cells]
            for parent, pick in PARENTS.items()
        }
        data = [
            (name, level["level"], *(pick(level)[key] for pick in PARENTS.values() for key in ("accuracy", "n")))
            for name, _, levels in cells
            for level in levels
        ]
        names = [level["level"] for level in max((levels for _, _, levels in cells), key=len)]
        figures.append(_by_level(f"Accuracy by depth, {tree}", columns, data, WORDS["depth"]["figure"], panels, names))
    return section("depth", figures)


def prefix_intervention(scores: Scores) -> Section | None:
    """Accuracy after a model's own, the true, and wrong answers. None where this was not asked."""
    figures, drops, verdicts = [], [], []
    for tree, model, cells in ((tree, *each) for _, tree, models in trees(scores) for each in models.items()):
        drop = (cells.get("guided", {}).get("minus_wrong_prefix") or {}).get("leaf")
        gain = (cells.get("true_prefix", {}).get("minus_guided") or {}).get("leaf")
        if not drop or not gain:
            continue
        names = [level["level"] for level in cells["guided"]["per_level"]]
        lines = [
            _line(f"after {words}", cells[prefix]["per_level"], style) for prefix, (words, style) in PREFIXES.items()
        ]
        figures.append(
            _by_level(
                f"Accuracy by the answers before, {model} on {tree}",
                ("level", *(f"{line.name} %" for line in lines)),
                list(zip(names, *(line.ys for line in lines), strict=True)),
                WORDS["prefix-intervention"]["figure"],
                {f"{tree}: {model}": lines},
                names,
            )
        )
        drops.append((tree, model, *_estimate(drop), *_estimate(gain)))
        verdicts.append(
            f"On {tree}, {model} {'shows no use of' if drop['low'] <= 0 else 'uses'} its earlier answers: wrong "
            f"ones cost it {drop['value']:.1f} points of leaf accuracy."
        )
    table = Table(
        "Leaf accuracy by the answers before it",
        ("tree", "model", "drop after wrong answers, points", "low", "high", "gain after true ones", "low", "high"),
        drops,
        WORDS["prefix-intervention"]["drops"],
    )
    return section("prefix-intervention", [*figures, table] if drops else [], more=verdicts)


def all_metrics(scores: Scores) -> Section | None:
    """Every metric of every cell, with the shares of unparsed answers and of invalid edges."""
    tables = _every_cell(
        scores,
        "All metrics",
        ("n", *(f"{title} %" for title in METRIC_TITLES.values()), "answers unparsed %", "MTA %", "invalid edges %"),
        lambda cell: (
            *(cell["n"], *(_written(cell, name) for name in METRIC_TITLES), cell["unread_answers"]),
            *(_written(cell, name) for name in ("mta", "invalid_edges")),
        ),
    )
    return section("metrics", tables)


def cost(scores: Scores) -> Section | None:
    tables = _every_cell(
        scores,
        "Cost of an image",
        (*COSTS.values(), "latency, ms", "machine time, ms"),
        lambda cell: (*(cell[key] for key in COSTS), 1000 * cell["latency"], 1000 * cell["wall"]),
    )
    return section("cost", tables)


def skills(outcomes: Sequence[Outcome]) -> Section | None:
    """General benchmarks of base and student, from ``general.json``. None if nothing was measured."""
    bounded = [Interval(e.task, e.difference, e.low, e.high, 3) for e in outcomes if e.low is not None]
    plot, note = None, ""
    if bounded:
        ends = [0.0, *(end for e in bounded for end in (e.low, e.high) if end)]
        axis, limits = "difference, in each benchmark's unit", (min(ends), max(ends))
        plot = plots.intervals({"student minus base": bounded}, axis, limits=limits if limits != (0, 0) else (-1, 1))
        note = WORDS["skills"]["figure"]
    columns = ("benchmark", "unit", "base", "student", "student − base", "low", "high", "samples")
    data = [tuple(vars(outcome).values()) for outcome in outcomes]
    return section("skills", [Table("Other skills before and after", columns, data, note, plot)] if data else [])


def mistakes(scores: Scores) -> Section | None:
    """Confusions between names. None if there are none."""
    tables = []
    for tree, found in base_and_student(scores).items():
        cells = [row for row in found if row[2]["mistakes"]]
        if cells:
            pairs = [(each["level"], each["true"], each["answered"]) for each in cells[0][2]["mistakes"]]
            counts = [[f"{e['mistaken']} of {e['offered']}" for e in cell["mistakes"]] for _, _, cell in cells]
            columns = ("level", "true", "answered", *(name_of(model, way) for model, way, _ in cells))
            data = [(*pair, *each) for pair, *each in zip(pairs, *counts, strict=True)]
            tables.append(Table(f"Commonest mistaken pairs, {tree}", columns, data))
    return section("mistakes", tables)


def calibration(scores: Scores) -> Section | None:
    """Reliability of the answers' probabilities. None if no image's truth is known."""
    words = WORDS["calibration"]
    columns = ("way of asking", "ECE, points", "answers", "answers without a confidence", "answers unread")
    figures = []
    for tree, cells in base_and_student(scores).items():
        found = [(name_of(*row[:2]), style_of(*row[:2]), row[2]["calibration"]) for row in cells]
        panels = {
            f"{name}: ECE {each['error']:.1f} points": (each["bins"], style)
            for name, style, each in found
            if each["answers"]
        }
        title = f"Reliability of the answer letter, {tree}"
        data = [(name, e["error"], e["answers"], e["without"], e["unread"]) for name, _, e in found]
        if panels:
            figures.append(Table(title, columns, data, words["figure"], plots.reliability(panels)))
        elif any(row[3] or row[4] for row in data):
            figures.append(Table(title, columns, data, words["silent"]))
    return section("calibration", figures)


def _every_cell(
    scores: Scores, title: str, columns: Sequence[str], values: Callable[[Scores], Sequence[Value]]
) -> list[Table]:
    return [
        Table(
            f"{title}, {tree}",
            ("way of asking", *columns),
            [(name_of(model, way), *values(cell)) for model, way, cell in rows(models)],
        )
        for _, tree, models in trees(scores)
    ]


def _line(name: str, levels: Iterable[Scores], style: int, *, least: int = 0) -> Line:
    """Accuracy by level, without the levels of fewer than ``least`` images."""
    ys = [level["accuracy"] if level["n"] >= least else None for level in levels]
    return Line(name, range(len(ys)), ys, style)


def _by_level(
    title: str,
    columns: Sequence[str],
    data: Sequence[Sequence[Value]],
    note: str,
    panels: Mapping[str, Sequence[Line]],
    names: Sequence[str],
) -> Table:
    drawn = plots.lines(panels, "level, coarse to fine", "accuracy (%)", names=names, limits=(0, 100))
    return Table(title, columns, data, note, drawn)


def _bounds(cell: Scores) -> tuple[float | None, float | None]:
    low, high = cell["intervals"]["hca"] or (None, None)
    return low, high


def _estimate(found: Scores | None) -> tuple[Value, Value, Value]:
    return (found["value"], found["low"], found["high"]) if found else (None, None, None)


def _written(cell: Scores, name: str) -> Value:
    """A metric with its spread over trainings and its interval, as text."""
    if cell[name] is None:
        return None
    bounds, spread = cell["intervals"].get(name), cell.get("spread", {}).get(name)
    text = f"{cell[name]:.1f}" + (f"\u00a0±\u00a0{spread:.1f}" if spread is not None else "")
    return text + (f" [{bounds[0]:.1f},\u00a0{bounds[1]:.1f}]" if bounds else "")
