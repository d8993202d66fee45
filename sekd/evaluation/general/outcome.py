"""Compare lmms-eval's results of base and student: one row a task and metric, with the paired difference.

lmms-eval writes ``<model>/<date>_results.json`` ({"results": {task: {"<metric>,<filter>": number, …}}}) and, for each
task, ``<date>_samples_<task>.jsonl`` with the sample's own value under the metric's name. Each metric also has its
standard errors and, for repeated samples, their agreement: ``<metric>_stderr_clt,<filter>`` and so on.

If a metric is a mean over samples, samples are paired and the difference has a bootstrap interval. Other metrics (MME
sums over categories and combines an image's two questions) have a difference without interval.
"""

import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sekd.errors import SekdError
from sekd.files import write_whole
from sekd.metrics import paired_difference

DERIVED = (
    "_stderr",
    "_stderr_clt",
    "_stderr_clustered",
    "_expected_accuracy",
    "_consensus_accuracy",
    "_internal_variance",
    "_consistency_rate",
)
UNITS = (1.0, 100.0)  # a metric may be the samples' mean, as a fraction or in percent
FILE = "general.json"  # in the run folder


@dataclass(frozen=True)
class Outcome:
    """One metric of one task, in the benchmark's own unit. ``low`` and ``high`` bound the difference (95 %)."""

    task: str
    metric: str
    base: float
    student: float
    difference: float
    low: float | None
    high: float | None
    samples: int | None


@dataclass(frozen=True)
class Scored:
    """A model's value of a metric, and by its id that of each sample where the reported value is their mean."""

    value: float
    samples: dict[str, float]


def compare(base: Path, student: Path) -> list[Outcome]:
    """Every metric that both results files hold.

    Raises:
        SekdError: a file cannot be read, or the two have no common metric.
    """
    before, after = read_results(base), read_results(student)
    outcomes = [_outcome(*key, before[key], after[key]) for key in before if key in after]
    if not outcomes:
        raise SekdError(f"{base} and {student} share no metric: expected results of the same tasks")
    return outcomes


def _outcome(task: str, metric: str, base: Scored, student: Scored) -> Outcome:
    low, high, count = None, None, None
    ids = sorted(base.samples)
    if ids and base.samples.keys() == student.samples.keys():
        count = len(ids)
        found = paired_difference(*(np.array([each.samples[i] for i in ids]) for each in (base, student)))
        low, high = (found["low"], found["high"]) if count > 1 else (None, None)
    return Outcome(task, metric, base.value, student.value, student.value - base.value, low, high, count)


def read_results(results: Path) -> dict[tuple[str, str], Scored]:
    """(task, metric) -> values.

    Raises:
        SekdError: the file is no results file, holds no metric, or some of its samples are missing.
    """
    try:
        content = json.loads(results.read_text(encoding="utf-8"))
        samples = {task: _rows(results, task, int(count["effective"])) for task, count in content["n-samples"].items()}
        scores = {
            (task, metric): scored
            for task, metrics in content["results"].items()
            for metric, scored in _read_task(samples.get(task, []), metrics)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SekdError(f"{results} is no whole results file of lmms-eval ({error}): remove it, run again") from error
    if not scores:
        raise SekdError(f"{results} holds no metric that is a number: lmms-eval scored nothing")
    return scores


def _read_task(rows: list[dict[str, Any]], metrics: Mapping[str, Any]) -> Iterable[tuple[str, Scored]]:
    for name, value in metrics.items():
        metric, comma, filtered = name.partition(",")  # without a comma it is the task's alias or its number of samples
        beside = (metric.removesuffix(suffix) for suffix in DERIVED if metric.endswith(suffix))
        derived = any(f"{other},{filtered}" in metrics for other in beside)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if comma and number and not derived:
            yield name.removesuffix(",none"), Scored(float(value), _explaining(rows, metric, float(value)))


def _rows(results: Path, task: str, count: int) -> list[dict[str, Any]]:
    """A task's samples: ``count`` of them, or that many for each of its filters."""
    file = results.with_name(results.name.replace("_results.json", f"_samples_{task}.jsonl"))
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    if len(rows) < count:
        raise ValueError(f"{file.name} has {len(rows)} of {count} samples")
    return rows


def _explaining(rows: list[dict[str, Any]], metric: str, reported: float) -> dict[str, float]:
    """The samples' values in the unit of the reported one; empty where it is not their mean."""
    values = {}
    for row in rows:
        value = row.get(metric)  # a number, or a record that holds one as its score
        value = value.get("score") if isinstance(value, Mapping) else value
        if not isinstance(value, int | float):
            return {}
        values[str(row["doc_id"])] = float(value)
    if not values or len(values) < len(rows):
        return {}
    mean = sum(values.values()) / len(values)
    units = (unit for unit in UNITS if math.isclose(unit * mean, reported, rel_tol=1e-3, abs_tol=1e-6))
    return {sample: unit * value for unit in [*units][:1] for sample, value in values.items()}


def write_outcomes(run: Path, outcomes: list[Outcome]) -> None:
    """``general.json`` in the run folder, which the report reads. Tasks that were written before stay."""
    tasks = {outcome.task for outcome in outcomes}
    outcomes = [each for each in read_outcomes(run) if each.task not in tasks] + outcomes
    write_whole(run / FILE, json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")


def read_outcomes(run: Path) -> list[Outcome]:
    file = run / FILE
    return [Outcome(**row) for row in json.loads(file.read_text())] if file.is_file() else []


def print_outcomes(outcomes: list[Outcome]) -> None:
    title = "Other skills, each in its own unit; differences with their paired 95 % interval"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    for i, column in enumerate(("task", "metric", "base", "student", "student − base", "interval", "samples")):
        table.add_column(column, justify="right" if i > 1 else "left", no_wrap=i > 0)
    for each in outcomes:
        bounds = "–" if each.low is None or each.high is None else f"[{each.low:+.2f}, {each.high:+.2f}]"
        figures = (f"{each.base:.2f}", f"{each.student:.2f}", f"{each.difference:+.2f}", bounds)
        table.add_row(each.task, each.metric, *figures, "–" if each.samples is None else str(each.samples))
    Console(width=None if sys.stdout.isatty() else 100, markup=False, emoji=False).print(table)
