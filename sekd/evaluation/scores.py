"""Scores of stored generations, with intervals. Needs no model.

Every number is computed from the stored text by ``sekd.answers`` (text -> options) and ``sekd.metrics`` (options ->
scores). Where a student was trained several times, a score is the mean over its trainings, ``spread`` their standard
deviation, and an interval is over images, of that mean.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sekd.answers import Parser, parse_joint, parse_single
from sekd.errors import SekdError
from sekd.evaluation.behaviour import Way, answered_names, calibrate, changes, count_pairs, tabulate
from sekd.evaluation.generations import CALL_COLUMNS, Cell, Generation, read_cell, read_listed, read_trees
from sekd.evaluation.students import BASE, STUDENT
from sekd.evaluation.table import INTERVENTIONS
from sekd.metrics import (
    METRICS,
    RESAMPLES,
    bootstrap_interval,
    invalid_edges,
    paired_difference,
    per_path,
    resampled_sums,
    score,
    treecut_accuracy,
)
from sekd.taxonomy import Taxonomy

# A prefix intervention is scored as a difference: paradigm -> the one to subtract.
PREFIX_CONTRASTS = {"guided": "wrong_prefix", "true_prefix": "guided"}
Scores = dict[str, Any]


@dataclass(frozen=True)
class Bootstrap:
    """How the 95 % intervals are drawn: percentile bootstrap over images."""

    resamples: int = RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise SekdError(f"resamples={self.resamples}: expected at least 1")


@dataclass(frozen=True)
class CellResult:
    """A cell's generations with their answers: per image and question the option index, None if unparsed."""

    cell: Cell
    generations: list[Generation]
    answers: list[list[int | None]]
    taxonomy: Taxonomy | None  # None where the run does not keep it


def read_run(run: Path, *, parser: Parser = "lenient") -> list[CellResult]:
    """Every cell of a run's last evaluation.

    Raises:
        SekdError: the run has not been evaluated.
    """
    trees, results = read_trees(run), []
    for each in read_listed(run):
        _, generations = read_cell(each.folder, each.keys)
        answers = [read_answers(generation, each.cell.paradigm, parser=parser) for generation in generations]
        results.append(CellResult(each.cell, generations, answers, trees.get(each.cell.tree)))
    return results


def read_answers(generation: Generation, paradigm: str, *, parser: Parser) -> list[int | None]:
    if paradigm == "joint":
        return parse_joint(generation.texts[0], generation.questions, parser=parser)
    pairs = zip(generation.texts, generation.questions, strict=True)
    return [parse_single(text, question, parser=parser) for text, question in pairs]


def score_run(results: Sequence[CellResult], *, bootstrap: Bootstrap) -> Scores:
    """``{"in_domain": {model: {paradigm: cell}}, "unseen": {tree: {model: {paradigm: cell}}}}``."""
    by_tree: dict[tuple[str, str], list[CellResult]] = defaultdict(list)
    for each in results:
        by_tree[each.cell.part, each.cell.tree].append(each)
    scores: Scores = {"in_domain": {}, "unseen": {}}
    for (part, tree), cells in by_tree.items():
        target = scores["in_domain"] if part == "in_domain" else scores["unseen"].setdefault(tree, {})
        target |= _score_tree(cells, bootstrap=bootstrap)
    return scores


def _score_tree(results: Sequence[CellResult], *, bootstrap: Bootstrap) -> Scores:
    groups: dict[Way, list[CellResult]] = defaultdict(list)
    for each in results:
        groups[each.cell.model, each.cell.paradigm].append(each)
    columns = {way: image_scores(cells) for way, cells in groups.items()}
    samples = {way: {tuple(row.sample for row in each.generations) for each in cells} for way, cells in groups.items()}

    def minus(way: Way, other: Way) -> Scores | None:
        """Every metric's paired difference; None if the two do not have the same images."""
        if other not in groups or len(samples[way] | samples[other]) > 1:
            return None
        return {name: difference(columns[other][name], columns[way][name], bootstrap) for name in METRICS}

    table: Scores = {}
    for (model, paradigm), cells in groups.items():
        way = (model, paradigm)
        cell = _score_cell(cells, columns[way], bootstrap=bootstrap)
        if model != BASE:
            bases = [other for name, other in groups if name == BASE]
            found = {f"minus_{BASE}_{other}": minus(way, (BASE, other)) for other in bases}
            cell["differences"] = {name: values for name, values in found.items() if values}
            if {f"minus_{BASE}_joint", f"minus_{BASE}_conditioned"} <= set(cell["differences"]):
                ours, joint, steps = (columns[each]["hca"] for each in (way, (BASE, "joint"), (BASE, "conditioned")))
                cell["gap_recovered"] = recovered(ours, joint, steps, bootstrap)
            if model != STUDENT and (values := minus(way, (STUDENT, paradigm))):
                cell[f"minus_{STUDENT}"] = values
        other = PREFIX_CONTRASTS.get(paradigm)
        if other and (values := minus(way, (model, other))):
            cell[f"minus_{other}"] = values
        table.setdefault(model, {})[paradigm] = cell
    _add_mistakes(table, {way: cells[0] for way, cells in groups.items()})
    return table


def _add_mistakes(table: Scores, first: Mapping[Way, CellResult]) -> None:
    """Errors of the first training: the most frequent confusions, and changes from the base."""
    shown = [way for way in first if way[0] in (BASE, STUDENT) and way[1] not in INTERVENTIONS]
    counts = [count_pairs(first[way].generations, first[way].answers) for way in shown]
    for (model, paradigm), rows in zip(shown, tabulate(counts, most=3), strict=True):
        table[model][paradigm]["mistakes"] = rows
    before, teacher, student = (BASE, "joint"), (BASE, "conditioned"), (STUDENT, "joint")
    after = student if student in first else teacher
    if before in first and after in first:
        answered = {
            way: {row.sample: (row, ours) for row, ours in zip(first[way].generations, first[way].answers, strict=True)}
            for way in (before, teacher, student)
            if way in first
        }
        table[after[0]][after[1]][f"from_{BASE}_joint"] = changes(answered, before, after)


def _score_cell(results: Sequence[CellResult], columns: Mapping[str, np.ndarray], *, bootstrap: Bootstrap) -> Scores:
    """One entry of ``scores.json``; several trainings of one model are averaged; calibration is the first one's.

    Args:
        columns: the trainings' ``image_scores``.
    """
    seeds = [_score_training(each) for each in results]
    cell: Scores = {
        name: _mean([each[name] for each in seeds]) for name in seeds[0] if name not in ("per_level", "calibration")
    }
    cell["n"] = seeds[0]["n"]
    cell["per_level"] = [_mean_level(levels) for levels in zip(*(each["per_level"] for each in seeds), strict=True)]
    cell["calibration"] = seeds[0]["calibration"]
    cell["intervals"] = {name: interval(values, bootstrap) for name, values in columns.items()}
    if len(results) > 1:
        cell["seeds"] = {each.cell.seed: scores for each, scores in zip(results, seeds, strict=True)}
        spread = (*METRICS, "mta", "invalid_edges", "parse_failures")
        cell["spread"] = {name: _spread([each[name] for each in seeds]) for name in spread}
    return cell


def image_scores(results: Sequence[CellResult]) -> dict[str, np.ndarray]:
    """Every metric of every image with known truth [image], in percent, averaged over the trainings."""
    known = [paths(each) for each in results]
    trainings = [per_path(*each) if each[0] else dict.fromkeys(METRICS, np.empty(0)) for each in known]
    return {name: np.mean([100 * training[name] for training in trainings], axis=0) for name in METRICS}


def is_known(generation: Generation) -> bool:
    return all(question.truth is not None for question in generation.questions)


def paths(result: CellResult) -> tuple[list[list[str]], list[list[str | None]]]:
    """True and answered names of every image whose truth is known."""
    truth: list[list[str]] = []
    predicted: list[list[str | None]] = []
    for generation, answers in zip(result.generations, result.answers, strict=True):
        if is_known(generation):
            truth.append([str(question.truth_name) for question in generation.questions])
            predicted.append(answered_names(generation, answers))
    return truth, predicted


def recovered(student: np.ndarray, joint: np.ndarray, teacher: np.ndarray, bootstrap: Bootstrap) -> Scores | None:
    """(student − joint) / (teacher − joint) in percent, with its interval; None if there is no gap.

    All three hold one value an image [image], of the same images in the same order, which are resampled together.
    The interval is over the resamples that have a gap; ``without_gap`` counts the others.
    """
    if len(student) == 0 or teacher.mean() <= joint.mean():
        return None
    both = np.stack([student - joint, teacher - joint], 1)
    gains, gaps = resampled_sums(both, np.ones(len(both)), **vars(bootstrap)).T  # [resample] each
    there = gaps > 0
    if not there.any():
        return None
    low, high = np.percentile(100 * gains[there] / gaps[there], [2.5, 97.5])
    value = 100 * (student - joint).sum() / (teacher - joint).sum()
    return {"value": float(value), "low": float(low), "high": float(high), "without_gap": int((~there).sum())}


def difference(first: np.ndarray, second: np.ndarray, bootstrap: Bootstrap) -> Scores | None:
    """Second minus first over the same images, with its interval; None where there is no image."""
    if len(first) == 0:
        return None
    found = paired_difference(first, second, **vars(bootstrap))
    return {"value": found["difference"], "low": found["low"], "high": found["high"]}


def interval(values: np.ndarray, bootstrap: Bootstrap) -> list[float] | None:
    """The interval of the mean over images [image]; None where there is no image."""
    if len(values) == 0:
        return None
    return list(bootstrap_interval(values, **vars(bootstrap)))


def _score_training(result: CellResult) -> Scores:
    truth, predicted = paths(result)
    numbers = score(truth, predicted) if truth else {"n": 0, **dict.fromkeys(METRICS)}
    calibration = calibrate(result.generations, result.answers)
    unread = [answer is None for answers in result.answers for answer in answers]
    return {
        **{name: numbers[name] for name in ("n", *METRICS)},
        "mta": 100 * float(treecut_accuracy(truth, predicted).mean()) if truth else None,
        "invalid_edges": _invalid_edges(result),
        "parse_failures": 100 * float(np.mean([None in answers for answers in result.answers])),
        "unread_answers": 100 * float(np.mean(unread)),
        "calibration_error": calibration["error"],
        "answers_without_confidence": calibration["without"],
        "calibration": calibration,
        "calls": float(np.mean([len(each.texts) for each in result.generations])),
        **{name: float(np.mean([sum(getattr(each, name)) for each in result.generations])) for name in CALL_COLUMNS},
        "wall": float(np.mean([each.wall for each in result.generations])),
        "per_level": by_level(result),
    }


def _invalid_edges(result: CellResult) -> float | None:
    """Percent of all neighbouring pairs of parsed answers; None without a tree or a pair. The truth is not needed."""
    if result.taxonomy is None:
        return None
    answered = [answered_names(*each) for each in zip(result.generations, result.answers, strict=True)]
    depths = [[question.depth for question in each.questions] for each in result.generations]
    counts = invalid_edges(result.taxonomy, answered, depths)
    pairs = sum(of for _, of in counts)
    return 100 * sum(invalid for invalid, _ in counts) / pairs if pairs else None


def by_level(result: CellResult) -> list[Scores]:
    """One entry a level, coarse to fine: its name, accuracy and count, over all and given the parent's answer.

    An image counts at the levels that it was asked about. Its answer to the question before is the parent's.
    """
    truth, predicted = paths(result)
    asked = [each.questions for each in result.generations if is_known(each)]
    steps: dict[int, list[tuple[str, list[str], list[str | None]]]] = defaultdict(list)
    for questions, true, answered in zip(asked, truth, predicted, strict=True):
        for i, question in enumerate(questions):
            step = slice(max(i - 1, 0), i + 1)
            steps[question.depth].append((question.level, true[step], answered[step]))
    entries = []
    for _, found in sorted(steps.items()):
        (level, *_), *names = zip(*found, strict=True)
        numbers = score(*names)
        entry = {"level": level, "accuracy": numbers["leaf"], "n": numbers["n"]}
        entries.append(entry | {key: numbers[key][-1] for key in ("given_right_parent", "given_wrong_parent")})
    return entries


def _mean_level(levels: Sequence[Scores]) -> Scores:
    """The mean over trainings; a count is that of one training, on average."""
    merged: Scores = {"level": levels[0]["level"], "accuracy": _mean([level["accuracy"] for level in levels])}
    merged["n"] = levels[0]["n"]
    for key in ("given_right_parent", "given_wrong_parent"):
        merged[key] = {
            "accuracy": _mean([level[key]["accuracy"] for level in levels]),
            "n": round(sum(level[key]["n"] for level in levels) / len(levels)),
        }
    return merged


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _spread(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.std(known, ddof=1)) if len(known) > 1 else None
