"""Print the scores as a table and a sentence."""

import sys
from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sekd.answers import Parser
from sekd.evaluation.students import BASE, STUDENT

METRIC_TITLES = {
    "hca": "HCA",
    "leaf": "leaf",
    "por": "POR",
    "s_por": "S-POR",
    "tor": "TOR",
    "parse_failures": "unparsed",
}
PARADIGM_TITLES = {
    "joint": "joint, one pass",
    "independent": "independent levels",
    "conditioned": "conditioned steps",
    "guided": "one pass held to letters",
}
INTERVENTIONS = ("true_prefix", "wrong_prefix")  # prefix interventions, which only the report shows
UNPAIRED = "not paired with"
Scores = dict[str, Any]


def trees(scores: Scores) -> Iterator[tuple[str, str, Scores]]:
    """(part, tree name, model -> paradigm -> cell) of every tree, the one distilled on first."""
    if scores["in_domain"]:
        yield "in_domain", tree_name("in_domain", ""), scores["in_domain"]
    for tree, models in scores["unseen"].items():
        yield "unseen", tree_name("unseen", tree), models


def tree_name(part: str, tree: str) -> str:
    """A tree's name; those distilled on are evaluated together."""
    return "in-domain" if part == "in_domain" else f"unseen: {tree}"


def rows(models: Scores) -> Iterator[tuple[str, str, Scores]]:
    """(model, strategy, cell) of one tree, in the order of the table."""
    for model, paradigms in models.items():
        for paradigm, cell in paradigms.items():
            if paradigm not in INTERVENTIONS:
                yield model, paradigm, cell


def print_table(scores: Scores) -> None:
    """Print the table in at most 80 columns, and the sentence below it."""
    table = Table(title="Percent; HCA: the whole path is right", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    for i, column in enumerate(("", "HCA", "leaf", "POR", "S-POR", "TOR", "unread", "calls", "ms")):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    for _, name, models in trees(scores):
        images = max((cell["n"] for _, _, cell in rows(models)), default=0)
        table.add_row(Text.assemble((name, "bold"), f", {images} images"))
        for model, paradigm, cell in rows(models):
            figures = [_shown(cell, metric) for metric in METRIC_TITLES]
            cost = (f"{cell['calls']:.0f}", f"{1000 * cell['wall']:.0f}")
            table.add_row(f"  {model} {paradigm}", *figures, *cost)
    # Names of trees and students are plain text, also with brackets and colons.
    console = Console(width=None if sys.stdout.isatty() else 100, markup=False, emoji=False)
    console.print(table)
    console.print(sentence(scores), highlight=False)


def sentence(scores: Scores) -> str:
    parts = [text for text in (_in_domain(scores["in_domain"]), _unseen(scores["unseen"])) if text]
    told = " ".join(parts) if parts else _of_base(scores)
    return told + parser_note(scores.get("parser", "lenient"))


def parser_note(parser: Parser) -> str:
    """A sentence on how replies were read, where that is not the usual way."""
    return "" if parser == "lenient" else f" Replies were read by the {parser} parser."


def _in_domain(models: Scores) -> str:
    cell = models.get(STUDENT, {}).get("joint")
    if cell is None or cell["hca"] is None or "joint" not in models.get("base", {}):
        return ""
    base, gap = models["base"]["joint"], cell.get("gap_recovered")
    text = (
        f"On {cell['n']} held-out images of the trees it was taught on, the student names the whole path right in one "
        f"pass for {cell['hca']:.1f} % ({_change(cell)} its base's {base['hca']:.1f} % in one pass)"
    )
    if gap is None:
        return text + "."
    steps = models["base"]["conditioned"]
    dropped = f" ({gap['without_gap']} resamples without a gap are left out)" if gap["without_gap"] else ""
    return (
        f"{text}: {gap['value']:.0f} % [{gap['low']:.0f}, {gap['high']:.0f}] of the gap to the {steps['hca']:.1f} % "
        f"that its base reaches in {steps['calls']:.0f} conditioned steps is recovered{dropped}."
    )


def _unseen(unseen: Scores) -> str:
    parts = []
    for tree, models in unseen.items():
        change = _change(models.get(STUDENT, {}).get("joint", {}))
        if change != UNPAIRED:
            parts.append(f"{change} {models['base']['joint']['hca']:.1f} % on {tree}")
    return f"On trees it has never seen: {'; '.join(parts)}." if parts else ""


def _of_base(scores: Scores) -> str:
    alone = all(models.keys() == {BASE} for _, _, models in trees(scores))
    whose = "No student to compare yet; the base alone" if alone else "The base"
    for _, name, models in trees(scores):
        cells = {way: cell for model, way, cell in rows(models) if model == BASE and cell["hca"] is not None}
        if cells:
            text = ", ".join(f"{cell['hca']:.1f} % {PARADIGM_TITLES[way]}" for way, cell in cells.items())
            return f"{whose}, {name}: {text}."
    return "No image has a known truth: there is nothing to score."


def _change(cell: Scores) -> str:
    """The paired HCA difference to the base in one pass, if both have the same images."""
    change = cell.get("differences", {}).get("minus_base_joint", {}).get("hca")
    if change is None:
        return UNPAIRED
    points = f"{change['value']:+.1f} points [{change['low']:+.1f}, {change['high']:+.1f}]".replace("-", "−")
    unclear = change["low"] <= 0 <= change["high"]
    return f"{points}, no clear change from" if unclear else f"{points} on"


def _shown(cell: Scores, metric: str) -> str:
    """A score in percent; the headline's with its spread over trainings."""
    if cell[metric] is None:
        return "–"
    spread = cell.get("spread", {}).get(metric) if metric == "hca" else None
    return f"{cell[metric]:.1f}" + ("" if spread is None else f"±{spread:.1f}")
