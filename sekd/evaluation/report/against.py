"""Two evaluated runs side by side: paired differences of their scores, and the settings in which they differ."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sekd.answers import Parser
from sekd.errors import SekdError
from sekd.evaluation.generations import Generation
from sekd.evaluation.report import plots
from sekd.evaluation.report.curves import training_curves
from sekd.evaluation.report.document import WORDS, Section, Table, Value, as_html, as_markdown, section
from sekd.evaluation.report.sections import name_of, style_of
from sekd.evaluation.rescore import read_parser
from sekd.evaluation.scores import Bootstrap, CellResult, difference, image_scores, interval, read_run
from sekd.evaluation.students import find_students
from sekd.evaluation.table import INTERVENTIONS, METRIC_TITLES, parser_note
from sekd.metrics import METRICS
from sekd.questions import Question
from sekd.recent import flat, read_settings

Way = tuple[str, str, str]  # tree, model, paradigm
Compared = dict[str, tuple[np.ndarray, np.ndarray]]  # metric -> both runs' scores of each image
Asked = tuple[str, str, tuple[Question, ...]]
APART = ("name", "runs", "artifacts", "force", "tracker")  # settings that are no part of what was trained


def write_comparison(run: Path, other: Path, *, bootstrap: Bootstrap | None = None) -> list[Path]:
    """``against-<other>.html`` and ``.md`` in ``run``; their paths.

    Both runs' scores are of the images that were asked the same questions in both; differences are ``run`` minus
    ``other``, paired over these images, with 95 % bootstrap intervals.

    Raises:
        SekdError: one was not evaluated, they share no tree, model and way of asking, or other parsers read them.
    """
    bootstrap = bootstrap or Bootstrap()
    parser, other_parser = read_parser(run), read_parser(other)
    if parser != other_parser:
        raise SekdError(
            f"{run} was scored with the {parser} parser and {other} with the {other_parser} one: score both with one "
            f"by `python -m sekd.evaluation.rescore {other} --parser {parser}`"
        )
    ours, theirs = _ways(run, parser), _ways(other, parser)
    compared = {way: found for way in ours if way in theirs and (found := _pair(ours[way], theirs[way]))}
    if not compared:
        raise SekdError(f"{run} and {other} have no image in common that a model of the same name was asked about")
    names = (run.name, other.name) if run.name != other.name else (str(run), str(other))
    alone = [name_of(*way[1:]) + f" on {way[0]}" for way in {**ours, **theirs} if way not in compared]
    shown = [
        each
        for each in (
            _scores(compared, names, alone, bootstrap),
            _settings(run, other, names),
            training_curves(
                [
                    replace(student, name=f"{name}, {student.name}")
                    for name, folder in zip(names, (run, other), strict=True)
                    for student in find_students(folder)
                ]
            ),
        )
        if each
    ]
    summary = WORDS["against"]["summary"].format(first=names[0], second=names[1]) + parser_note(parser)
    files = {run / f"against-{other.name}.html": as_html, run / f"against-{other.name}.md": as_markdown}
    for file, render in files.items():
        file.write_text(render(f"SEKD: {names[0]} against {names[1]}", summary, shown), encoding="utf-8")
    return list(files)


def _ways(run: Path, parser: Parser) -> dict[Way, list[CellResult]]:
    """The trainings' results of every tree, model and way of asking, without the prefix interventions."""
    found: dict[Way, list[CellResult]] = defaultdict(list)
    for each in read_run(run, parser=parser):
        if each.cell.paradigm not in INTERVENTIONS:
            found[each.cell.tree, each.cell.model, each.cell.paradigm].append(each)
    return found


def _pair(first: Sequence[CellResult], second: Sequence[CellResult]) -> Compared | None:
    """Both runs' scores of the images that all trainings were asked the same questions about; None without any."""
    shared = set.intersection(*({_asked(row) for row in each.generations} for each in (*first, *second)))
    ours, theirs = (image_scores([_only(each, shared) for each in cells]) for cells in (first, second))
    return {name: (ours[name], theirs[name]) for name in METRICS} if len(ours["hca"]) else None


def _asked(row: Generation) -> Asked:
    """An image with its questions, which depend on settings too."""
    return row.sample, row.key, row.questions


def _only(result: CellResult, shared: Collection[Asked]) -> CellResult:
    """The result of these images, which are in the order of their samples in every run."""
    pairs = [pair for pair in zip(result.generations, result.answers, strict=True) if _asked(pair[0]) in shared]
    return replace(result, generations=[row for row, _ in pairs], answers=[answers for _, answers in pairs])


def _scores(
    compared: Mapping[Way, Compared], names: tuple[str, str], alone: Sequence[str], bootstrap: Bootstrap
) -> Section | None:
    rows: dict[str, list[Sequence[Value]]] = {name: [] for name in METRICS}
    each_run: dict[str, list[plots.Interval]] = defaultdict(list)
    changes: dict[str, list[plots.Interval]] = defaultdict(list)
    for (tree, *way), scores in compared.items():
        title, style = name_of(*way), style_of(*way)
        for metric, (ours, theirs) in scores.items():
            change = difference(theirs, ours, bootstrap)
            assert change
            rows[metric].append((tree, title, len(ours), float(ours.mean()), float(theirs.mean()), *change.values()))
            if metric == "hca":
                changes[tree].append(plots.Interval(title, change["value"], change["low"], change["high"], style))
                for name, values in zip(names, (ours, theirs), strict=True):
                    low, high = interval(values, bootstrap) or (None, None)
                    each_run[tree].append(plots.Interval(f"{name}: {title}", float(values.mean()), low, high, style))
    ends = [end for found in changes.values() for row in found for end in (row.low, row.high, 0.0) if end is not None]
    limits = (min(ends), max(ends)) if min(ends) < max(ends) else (-1.0, 1.0)
    columns = ("tree", "way of asking", "images", f"{names[0]} %", f"{names[1]} %", "difference, points", "low", "high")
    drawn = plots.intervals(changes, f"{names[0]} minus {names[1]}, HCA (points)", limits=limits)
    hca = Table("Whole paths right, the difference", columns, rows["hca"], WORDS["against"]["figure"], drawn)
    both = plots.intervals(each_run, "whole paths right, HCA (%)", limits=(0, 100))
    own = [(tree, row.name, row.value, row.low, row.high) for tree, found in each_run.items() for row in found]
    tables = [hca, Table("Whole paths right, each run", ("tree", "run", "HCA %", "low", "high"), own, "", both)]
    tables += [Table(METRIC_TITLES[metric], columns, rows[metric]) for metric in METRICS if metric != "hca"]
    more = [f"Not in both runs, and left out: {'; '.join(alone)}."] if alone else []
    return section("against", tables, more=more, first=names[0], second=names[1])


def _settings(run: Path, other: Path, names: tuple[str, str]) -> Section | None:
    """The settings in which the first trainings of students of one name differ."""
    first, second = ({each.name: each for each in reversed(find_students(folder))} for folder in (run, other))
    rows = []
    for name in first:
        if name in second:
            ours, theirs = (
                {key: str(value) for key, value in flat(read_settings(each[name].training))} for each in (first, second)
            )
            keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
            rows += [(name, key, ours.get(key, "–"), theirs.get(key, "–")) for key in keys if key not in APART]
    title = "Settings of the first training that are not the same"
    return section("against-settings", [Table(title, ("student", "setting", *names), rows)] if rows else [])
