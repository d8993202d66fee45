"""Predictions as a table: on the terminal, as CSV, or as Parquet."""

import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sekd.errors import SekdError
from sekd.evaluation.predict.answer import Prediction


def check_target(out: Path | None) -> None:
    """Refuse a file of an unknown kind before anything is asked."""
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise SekdError(f"--out {out}: expected a file that ends in .csv or .parquet")


def write(predictions: Sequence[Prediction], out: Path | None) -> None:
    """One row an image: its levels' names and probabilities, the path's probability, the passes it took."""
    if out is None:
        _print(predictions)
        return
    rows = table(predictions)
    if out.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), out)
    else:
        with out.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    print(f"wrote {len(rows)} predictions to {out}")


def table(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Rows with the same columns, whatever the depth of their paths."""
    names = list(dict.fromkeys(level.level for prediction in predictions for level in prediction.levels))
    rows = []
    for prediction in predictions:
        found = {level.level: level for level in prediction.levels}
        row: dict[str, Any] = {"image": str(prediction.image)}
        for name in names:
            level = found.get(name)
            row[name] = level.name if level else None
            row[f"{name}_probability"] = _rounded(level.probability) if level else None
        row["probability"] = None if prediction.fault else _rounded(prediction.probability)
        row |= {"passes": prediction.passes, "fault": prediction.fault or None}
        rows.append(row)
    return rows


def _print(predictions: Sequence[Prediction]) -> None:
    for prediction in predictions:
        if prediction.fault:
            print(f"{prediction.image}: {prediction.fault}", file=sys.stderr)
            continue
        path = " > ".join(f"{level.name} ({_percent(level.probability)})" for level in prediction.levels)
        print(f"{prediction.image}: {path}")


def _rounded(probability: float) -> float | None:
    return None if math.isnan(probability) else round(probability, 6)


def _percent(probability: float) -> str:
    return "unsure" if math.isnan(probability) else f"{100 * probability:.0f} %"
