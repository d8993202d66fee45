"""What lmms-eval wrote about the base and the student -> one row a task and metric, with the paired difference.

lmms-eval writes ``<model>/<date>_results.json`` ({"results": {task: {"<metric>,<filter>": number, …}}}) and, for each
task, ``<date>_samples_<task>.jsonl`` with the sample's own value under the metric's name. Beside each metric stand its
standard errors and, where samples were repeated, how much they agree: ``<metric>_stderr_clt,<filter>`` and so on.

Many of its metrics are means over samples; then samples pair up and the difference has a bootstrap interval. Others are
not (MME sums over categories, and counts an image's two questions together): those have a difference without interval.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sekd.errors import SekdError
from sekd.files import write_whole
from sekd.metrics import RESAMPLES, paired_difference

DERIVED = (
    "_stderr",
    "_stderr_clt",
    "_stderr_clustered",
    "_expected_accuracy",
    "_consensus_accuracy",
    "_internal_variance",
    "_consistency_rate",
)
UNITS = (1.0, 100.0)  # a metric may be the samples' mean, or that in percent
Samples = dict[str, float]  # a sample's id -> its value


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
    """One model's values of a metric: as reported, and of each sample where the reported value is their mean."""

    value: float
    samples: Samples


def compare(base: Path, student: Path, *, resamples: int = RESAMPLES) -> list[Outcome]:
    """Every metric that both results files hold.

    Raises:
        SekdError: a file cannot be read, or holds nothing that the other has.
    """
    before, after = read_results(base), read_results(student)
    shared = [key for key in before if key in after]
    if not shared:
        raise SekdError(f"{base} and {student} share no metric: expected results of the same tasks")
    return [_outcome(*key, before[key], after[key], resamples=resamples) for key in shared]


def _outcome(task: str, metric: str, base: Scored, student: Scored, *, resamples: int) -> Outcome:
    low, high = None, None
    ids = sorted(base.samples.keys() & student.samples.keys())
    whole = len(ids) == len(base.samples) == len(student.samples)
    if whole and len(ids) > 1:
        first, second = (np.array([each.samples[i] for i in ids]) for each in (base, student))
        found = paired_difference(first, second, resamples=resamples)
        low, high = found["low"], found["high"]
    count = len(ids) if whole and ids else None
    return Outcome(task, metric, base.value, student.value, student.value - base.value, low, high, count)


def read_results(results: Path) -> dict[tuple[str, str], Scored]:
    """(task, metric) -> values.

    Raises:
        SekdError: the file is no results file, holds no metric, or its samples are not all there.
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
        derived = any(
            metric.endswith(suffix) and f"{metric.removesuffix(suffix)},{filtered}" in metrics for suffix in DERIVED
        )
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


def _explaining(rows: list[dict[str, Any]], metric: str, reported: float) -> Samples:
    """The samples' values in the unit of the reported one; empty where it is not their mean."""
    values = {str(row["doc_id"]): value for row in rows if (value := _number(row.get(metric))) is not None}
    if not values or len(values) < len(rows):
        return {}
    mean = sum(values.values()) / len(values)
    unit = next((unit for unit in UNITS if math.isclose(unit * mean, reported, rel_tol=1e-3, abs_tol=1e-6)), None)
    return {} if unit is None else {sample: unit * value for sample, value in values.items()}


def _number(value: Any) -> float | None:
    """A sample's value: a number, or a record that holds one as its score."""
    found = value.get("score") if isinstance(value, Mapping) else value
    return float(found) if isinstance(found, int | float) else None


def write_outcomes(run: Path, outcomes: list[Outcome]) -> Path:
    """``general.json`` in the run folder, which the report reads. Tasks that were written before stay."""
    file, tasks = run / "general.json", {outcome.task for outcome in outcomes}
    outcomes = [each for each in read_outcomes(run) if each.task not in tasks] + outcomes
    write_whole(file, json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    return file


def read_outcomes(run: Path) -> list[Outcome]:
    """What ``write_outcomes`` wrote; empty where nothing was."""
    file = run / "general.json"
    return [Outcome(**row) for row in json.loads(file.read_text())] if file.is_file() else []
