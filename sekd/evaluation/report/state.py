"""Does a single pass use its own earlier answers? Accuracy by level after the model's own, the true, and wrong ones."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from sekd.evaluation.held import GUIDED, PREFIXES
from sekd.evaluation.report.charts import Axis, Series, line_panel
from sekd.evaluation.report.document import Figure, Section, Table, Value
from sekd.evaluation.scores import Bootstrap, Kept, difference, image_scores, score_cell

TITLES = {GUIDED: "its own answers", "true_prefix": "true answers", "wrong_prefix": "wrong answers"}
STYLES = {GUIDED: 3, "true_prefix": 2, "wrong_prefix": 0}
Prefixed = dict[str, list[Kept]]  # prefix -> a model's trainings


def state(kept: Sequence[Kept], *, bootstrap: Bootstrap) -> Section | None:
    """The prefix intervention, per tree and model; None where it was not run."""
    figures: list[Figure] = []
    rows: list[tuple[Value, ...]] = []
    key = lambda each: (each.cell.part != "in_domain", each.cell.tree, each.cell.model)  # noqa: E731
    asked = sorted((each for each in kept if each.cell.paradigm in PREFIXES), key=key)
    for (_, tree, model), group in groupby(asked, key=key):
        cells: Prefixed = {}
        for each in group:
            cells.setdefault(each.cell.paradigm, []).append(each)
        if set(cells) == set(PREFIXES) and all(len(image_scores(each)["hca"]) for each in cells.values()):
            figures.append(_figure(len(figures), tree, model, cells, bootstrap))
            rows.append(_drops(tree, model, cells, bootstrap))
    if not rows:
        return None
    columns = (
        "tree",
        "model",
        "drop after wrong answers, points",
        "low",
        "high",
        "gain after true ones",
        "low",
        "high",
    )
    note = (
        "Of the last level, paired over the same images: right after the model's own answers minus right after wrong "
        "ones (state used), and right after true ones minus after its own."
    )
    table = Table("Leaf accuracy by what was said before it", columns, rows, note)
    text = [
        "All questions stand in the prompt and the answers to the levels above are written for the model: its own, the "
        "true ones, or wrong ones. A model that keeps track of its path falls when it is told wrong answers; one that "
        "answers each question from the image alone does not move.",
        *[_meaning(str(row[0]), str(row[1]), row[3], row[2]) for row in rows],
    ]
    return Section("state", "Is it state?", text, [table], figures)


def _figure(number: int, tree: str, model: str, cells: Prefixed, bootstrap: Bootstrap) -> Figure:
    levels = {prefix: score_cell(each, bootstrap=bootstrap)["per_level"] for prefix, each in cells.items()}
    names = [level["level"] for level in levels[GUIDED]]
    series = [
        Series(TITLES[prefix], range(len(names)), [level["accuracy"] for level in levels[prefix]], STYLES[prefix])
        for prefix in PREFIXES
    ]
    words = "; ".join(
        f"after {line.name}: {', '.join(f'{y:.0f}' for y in line.ys if y is not None)}" for line in series
    )
    panel = line_panel(
        key=f"state-{number}",
        title=f"{tree}: {model}",
        description=f"Accuracy in percent by level, coarse to fine. {words}.",
        x=Axis("level, coarse to fine", 0, len(names) - 1, names),
        y=Axis("accuracy (%)", 0, 100),
        series=series,
    )
    rows = [(name, *(levels[prefix][i]["accuracy"] for prefix in PREFIXES)) for i, name in enumerate(names)]
    return Figure(
        f"Accuracy by what was said before, {model} on {tree}",
        "The first level has nothing before it, so its three marks agree. Look at the distance between the lines at "
        "the deeper levels: it is how much the model leans on its earlier answers.",
        [panel],
        [(STYLES[prefix], f"after {TITLES[prefix]}") for prefix in PREFIXES],
        Table("Accuracy by what was said before", ("level", *(f"after {TITLES[p]} %" for p in PREFIXES)), rows),
    )


def _drops(tree: str, model: str, cells: Prefixed, bootstrap: Bootstrap) -> tuple[Value, ...]:
    leaf = {prefix: image_scores(each)["leaf"] for prefix, each in cells.items()}
    return (
        tree,
        model,
        *_estimate(leaf["wrong_prefix"], leaf[GUIDED], bootstrap),
        *_estimate(leaf[GUIDED], leaf["true_prefix"], bootstrap),
    )


def _estimate(first: np.ndarray, second: np.ndarray, bootstrap: Bootstrap) -> tuple[Value, Value, Value]:
    found = difference(first, second, bootstrap)
    assert found is not None
    return found["value"], found["low"], found["high"]


def _meaning(tree: str, model: str, low: Value, drop: Value) -> str:
    assert isinstance(low, float)
    assert isinstance(drop, float)
    verdict = "shows no use of" if low <= 0 else "uses"
    return f"On {tree}, {model} {verdict} its earlier answers: wrong ones cost it {drop:.1f} points of leaf accuracy."
