"""The sections with the numbers of ``scores.json``, which are not computed again."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sekd.evaluation.general.outcome import Outcome
from sekd.evaluation.report import plots
from sekd.evaluation.report.document import Section, Table, Value
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
    """The name of a model and strategy in the report."""
    title = PARADIGM_TITLES.get(paradigm, paradigm)
    return f"{model}, one pass" if paradigm == "joint" and model != "base" else f"{model}, {title}"


def style_of(model: str, paradigm: str) -> int:
    if model == "base":
        return STYLES.get(paradigm, 5)
    return 3 if (model, paradigm) == (STUDENT, "joint") else 4


def base_and_student(scores: Scores) -> dict[str, list[Row]]:
    """The cells of the base and of the run's main student, by tree."""
    return {tree: [row for row in rows(models) if row[0] in ("base", STUDENT)] for _, tree, models in trees(scores)}


def headline(scores: Scores) -> Section:
    """Base and student with intervals, and how much of the gap is recovered."""
    title = "Whole paths right by way of asking"
    figure = Table(
        title,
        ("tree", "way of asking", "n", "HCA %", "low", "high"),
        [
            (tree, name_of(model, way), cell["n"], cell["hca"], *_bounds(cell))
            for tree, cells in base_and_student(scores).items()
            for model, way, cell in cells
        ],
        "Each mark is the share of images whose whole path is right, its line the 95 % bootstrap interval over images. "
        "Compare the base in one pass with the base in conditioned steps, and see how far the student, in one pass, "
        "closes the distance.",
        plots.svg(headline_plot(scores), title),
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
        "Paired over the same images. The gap is the base's conditioned steps minus its joint answers; 100 % means "
        "that one pass of the student is as good as the base's step-by-step answers.",
    )
    return Section("headline", "Headline", tables=[figure, gained] if gaps else [figure])


def headline_plot(scores: Scores) -> Any:
    """HCA with its interval, a panel a tree, a row a way of asking."""
    return _hca_plot(base_and_student(scores))


def _hca_plot(shown: Mapping[str, Sequence[Row]]) -> Any:
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
    title = "Students side by side, in one pass"
    figure = Table(
        title,
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
        "One row a student: HCA with its 95 % interval over images, the mean over its trainings. The table holds the "
        f"paired difference to the run's {STUDENT}: where its interval excludes 0, the two differ.",
        plots.svg(_hca_plot(shown), title),
    )
    return Section("arms", "Ablation", tables=[figure])


def depth(scores: Scores) -> Section:
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
            (name, level["level"], *(value for pick in PARENTS.values() for value in _accuracy(pick(level))))
            for name, _, levels in cells
            for level in levels
        ]
        note = (
            "The tree's levels from coarse to fine. Compare how the base falls in one pass and in conditioned steps, "
            "and see at which levels the student closes the gap. Points of fewer than 10 images are left out."
        )
        names = [level["level"] for level in max((levels for _, _, levels in cells), key=len)]
        figures.append(_by_level(f"Accuracy by depth, {tree}", columns, data, note, panels, names))
    text = [
        "How often the node at each level is right: over all images, over those whose node one level up was answered "
        "right, and over those where it was answered wrong. A model that uses its earlier answers falls when its "
        "parent is wrong; one that answers each level for itself does not."
    ]
    return Section("depth", "Accuracy by depth", text, figures)


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
                "The first level has nothing before it, so its three marks agree. The distance between the lines "
                "at the deeper levels is how much the model uses its earlier answers.",
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
        "Of the last level, paired over the same images: accuracy after the model's own answers minus after wrong "
        "ones, and after true ones minus after its own.",
    )
    text = [
        "All questions are in the prompt, and the answers to the levels above are written for the model: its own, the "
        "true ones, or wrong ones. A model that uses its earlier answers falls after wrong ones; one that answers each "
        "question from the image alone does not change.",
        *verdicts,
    ]
    return Section("prefix-intervention", "Is it state?", text, [*figures, table]) if drops else None


def all_metrics(scores: Scores) -> Section:
    """Every metric of every cell, with the share of unparsed answers."""
    text = [
        "HCA: the whole path is right. Leaf: the last node is. POR: share of nodes that are right. S-POR: length "
        "of the longest right beginning. TOR: share of neighbouring pairs that are both right. Brackets hold 95 % "
        "bootstrap intervals over images; ± is the standard deviation over a student's trainings.",
        "Unparsed: share of images of which at least one answer could not be read; each such answer counts as "
        "wrong. Independent and conditioned questions allow only the offered letters, so theirs is 0 by "
        "construction; joint answers are free text.",
    ]
    tables = _every_cell(
        scores,
        "All metrics",
        ("n", *(f"{title} %" for title in METRIC_TITLES.values()), "answers unparsed %"),
        lambda cell: (cell["n"], *(_written(cell, name) for name in METRIC_TITLES), cell["unread_answers"]),
    )
    return Section("metrics", "All metrics", text, tables)


def cost(scores: Scores) -> Section:
    """Calls, tokens and seconds an image."""
    text = [
        "Means over images. Latency is the sum over an image's calls, each measured while others were in flight; "
        "machine time is the cell's wall-clock time divided by its images, so it counts what batching saves."
    ]
    tables = _every_cell(
        scores,
        "Cost of an image",
        (*COSTS.values(), "latency, ms", "machine time, ms"),
        lambda cell: (*(cell[key] for key in COSTS), 1000 * cell["latency"], 1000 * cell["wall"]),
    )
    return Section("cost", "What an answer costs", text, tables)


def skills(outcomes: Sequence[Outcome]) -> Section | None:
    """General benchmarks of base and student, from ``general.json``. None if nothing was measured."""
    bounded = [Interval(e.task, e.difference, e.low, e.high, 3) for e in outcomes if e.low is not None]
    title, plot, note = "Other skills before and after", "", ""
    if bounded:
        ends = [0.0, *(end for e in bounded for end in (e.low, e.high) if end)]
        axis, limits = "difference, in each benchmark's unit", (min(ends), max(ends))
        drawn = plots.intervals({"student minus base": bounded}, axis, limits=limits if limits != (0, 0) else (-1, 1))
        plot = plots.svg(drawn, title)
        note = (
            "Each mark is the student's score minus its base's on the same samples, in the benchmark's own unit, its "
            "line the paired 95 % bootstrap interval. An interval left of 0 is a skill that was lost in part."
        )
    columns = ("benchmark", "unit", "base", "student", "student − base", "low", "high", "samples")
    data = [tuple(vars(outcome).values()) for outcome in outcomes]
    return Section("skills", "Other skills", tables=[Table(title, columns, data, note, plot)]) if outcomes else None


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
    text = [
        'The pairs that are mistaken most often over all ways of asking, a few a level. "8 of 16": of the 16 '
        "questions that offered both names, 8 were answered with the wrong one of the two. Of a student that was "
        "trained several times, the first training is counted."
    ]
    return Section("mistakes", "Commonest mistakes", text, tables) if tables else None


def calibration(scores: Scores) -> Section | None:
    """Reliability of the answers' probabilities. None if no image's truth is known."""
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
        note = (
            "A mark below the diagonal is overconfident, above it underconfident; its area shows how many answers it "
            "holds. Compare the base in one pass with the student."
        )
        if panels:
            figures.append(Table(title, columns, data, note, plots.svg(plots.reliability(panels), title)))
        elif any(row[3] or row[4] for row in data):
            figures.append(Table(title, columns, data, "No answer has a confidence, so there is no plot."))
    text = [
        "Confidence is the probability of the answered letter among the offered ones at the answer position. The "
        "answers of a calibrated model are right as often as their confidence says: its marks lie on the dotted "
        "diagonal. ECE, the expected calibration error, is the mean distance from it, weighted by the answers of each "
        "mark. Of a student that was trained several times, the first training is shown."
    ]
    return Section("calibration", "Calibration", text, figures) if figures else None


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
    return Table(title, columns, data, note, plots.svg(drawn, title))


def _accuracy(level: Scores) -> tuple[Value, Value]:
    return level["accuracy"], level["n"]


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
