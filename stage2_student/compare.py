"""`make compare`: one table of all students, mean and spread over seeds, best first; printed and saved.

Runs that differ only in their seed are one row, named by the settings in which the rows differ. Scores are those of the
validation at the end of each run, not of the test split.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from sekd.errors import SekdError, exit_on_error
from sekd.recent import CONFIG, flat, read_settings
from stage2_student.runs import RunFolder, digest, essential

# Key in metrics.json and column of the compared scores.
COLUMNS = {
    "hca": "HCA %",
    "leaf": "leaf %",
    "por": "POR %",
    "parse_failures": "parse failures %",
    "agreement": "agreement",
}
LESS_IS_BETTER = {"parse_failures"}
NAMES = {"loss.name", "trainer.name", "model.name", "data.name"}


@dataclass
class Row:
    """One student: its settings without the seed, and the scores of every seed."""

    settings: dict[str, Any]
    seeds: list[int] = field(default_factory=list)
    scores: list[dict[str, float]] = field(default_factory=list)

    def values(self, key: str) -> list[float]:
        return [scores[key] for scores in self.scores if key in scores]


def read_rows(runs: Path) -> list[Row]:
    """Every complete run below a folder, grouped by all settings but the seed.

    Raises:
        SekdError: there is none.
    """
    rows: dict[str, Row] = {}
    for file in sorted(runs.rglob(CONFIG)):
        settings = read_settings(file.parent)
        metrics = RunFolder(file.parent, settings).metrics()
        if settings and metrics:
            seedless = {**settings, "seed": None}
            row = rows.setdefault(digest(seedless), Row(seedless))
            row.seeds.append(settings["seed"])
            row.scores.append(metrics["val"])
    if not rows:
        raise SekdError(f"{runs} holds no run that has ended; `make student` or `make sweep` makes some")
    return list(rows.values())


def ranked(rows: Sequence[Row], key: str) -> list[Row]:
    """Best mean of ``key`` first, rows without it last."""
    sign = 1 if key in LESS_IS_BETTER else -1
    return sorted(rows, key=lambda row: sign * mean(row.values(key)) if row.values(key) else float("inf"))


def labels(rows: Sequence[Row]) -> list[str]:
    """Rows named by the settings in which they differ; a setting that its config group implies is left out."""
    settings = [{key: str(value) for key, value in flat(essential(row.settings))} for row in rows]
    keys = dict.fromkeys(key for row in settings for key in row)
    differing = [key for key in keys if len({row.get(key) for row in settings}) > 1]

    def follows(key: str) -> bool:
        name = f"{key.split('.')[0]}.name"
        pairs = {(row.get(name), row.get(key)) for row in settings}
        return name in NAMES.intersection(differing) and len(pairs) == len({named for named, _ in pairs})

    shown = [key for key in differing if key in NAMES or not follows(key)]
    return [
        ", ".join(str(row.get(key)) if key in NAMES else f"{key}={row.get(key)}" for key in shown) or "all runs"
        for row in settings
    ]


def table(rows: Sequence[Row]) -> str:
    """A Markdown table, mean ± standard deviation over seeds where there are several."""
    columns = {key: title for key, title in COLUMNS.items() if any(row.values(key) for row in rows)}
    lines = [["student", "seeds", *columns.values()]]
    for row, label in zip(rows, labels(rows), strict=True):
        lines.append([label, str(len(row.seeds)), *(_spread(row.values(key), key) for key in columns)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([f"| {text[0]} |", rule, *(f"| {line} |" for line in text[1:])])


def _spread(values: Sequence[float], key: str) -> str:
    digits = 3 if key == "agreement" else 1
    if not values:
        return "–"
    around = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{around}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="?", type=Path, default=Path("runs"), help="the folder to look in")
    parser.add_argument("--by", default="hca", choices=list(COLUMNS), help="what is best")
    arguments = parser.parse_args()
    with exit_on_error():
        rows = ranked(read_rows(arguments.runs), arguments.by)
        text = table(rows)
        (arguments.runs / "compare.md").write_text(text + "\n")
        print(text)


if __name__ == "__main__":
    main()
