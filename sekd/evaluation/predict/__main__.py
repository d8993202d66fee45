"""``python -m sekd.evaluation.predict --adapter runs/demo/adapter --taxonomy tree.json image…``: name your own images.

The student answers every level of the tree in one pass over the image. Where a level has more names than --options,
further passes decide among the rest (see ``narrowing``); a tree that holds the plausible candidates alone takes one.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sekd.datasets.config import CONFIGS, DataConfig
from sekd.errors import SekdError, exit_on_error
from sekd.evaluation.students import check_adapter, read_base, read_data
from sekd.inference.config import EngineConfig
from sekd.machine import engine_of_this_machine
from sekd.models import ModelConfig
from sekd.recent import run_folder
from sekd.taxonomy import Taxonomy, load_taxonomy

CONF = CONFIGS.parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sekd.evaluation.predict", description=__doc__)
    parser.add_argument("images", nargs="+", type=Path, help="images, or folders of images")
    parser.add_argument(
        "--adapter", type=Path, help="the student, runs/<name>/adapter; by default the newest; the base under --model"
    )
    parser.add_argument(
        "--taxonomy",
        help='hierarchy as JSON {"leaf": ["coarse", …, "fine"]} or CSV, or a conf/data name; by default the student\'s',
    )
    parser.add_argument("--levels", help="names of the levels, coarse to fine, by commas; the skipped ones too")
    parser.add_argument("--skip", type=int, default=0, help="so many first levels are not asked about")
    parser.add_argument("--root", help="the skipped node to stay below; of several the most probable is found")
    parser.add_argument("--options", type=int, default=4, help="most options a question; students learn four")
    parser.add_argument("--model", help="entry of conf/model; by default the one that the adapter was trained from")
    parser.add_argument("--engine", help="entry of conf/engine; by default what fits this machine")
    parser.add_argument("--out", type=Path, help="a .csv or .parquet file, instead of the terminal")
    arguments = parser.parse_args()
    with exit_on_error():
        _predict(arguments)


def _predict(arguments: argparse.Namespace) -> None:
    from sekd.evaluation.predict.narrowing import find_images, predict, roots_of

    out, adapter = arguments.out, arguments.adapter
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise SekdError(f"--out {out}: expected a file that ends in .csv or .parquet")
    if not 2 <= arguments.options <= 26:
        raise SekdError(f"--options {arguments.options}: expected 2 to 26, a letter each")
    images = find_images(arguments.images)
    if adapter is None and arguments.model is None:
        adapter = run_folder(None) / "adapter"
    taxonomy = read_taxonomy(arguments, adapter)
    roots = roots_of(taxonomy, arguments.root)
    model = compose("model", arguments.model, ModelConfig) if arguments.model else read_base(adapter.parent)
    if adapter:
        check_adapter(adapter, model)

    # Imported after all checks, because vLLM takes seconds to import.
    from tqdm import tqdm

    from sekd.inference.engine import Engine
    from sekd.inference.strategies import Strategies
    from sekd.models import load_processor
    from sekd.prompts import Prompter

    strategies = Strategies(Prompter.named(model.wording), load_processor(model), topk=4 * arguments.options)
    engine_config = compose("engine", arguments.engine or engine_of_this_machine(), EngineConfig)
    with Engine(model, engine_config, adapter=adapter) as engine:
        found = predict(engine, strategies, images, taxonomy, roots=roots, most=arguments.options)
        predictions = list(tqdm(found, total=len(images), unit="image", disable=len(images) < 20))
    order = {image: place for place, image in enumerate(images)}
    write(sorted(predictions, key=lambda prediction: order[prediction.image]), out)


def read_taxonomy(arguments: argparse.Namespace, adapter: Path | None) -> Taxonomy:
    """The tree of a file, or of a dataset of ``conf/data``, as that dataset asks about it."""
    from sekd.datasets import load_dataset

    if arguments.taxonomy and Path(arguments.taxonomy).suffix:
        levels = arguments.levels.split(",") if arguments.levels else None
        return load_taxonomy(arguments.taxonomy, skip=arguments.skip, level_names=levels)
    if arguments.taxonomy:
        return load_dataset(compose("data", arguments.taxonomy, DataConfig), "test").taxonomy
    if adapter is None:
        raise SekdError("name the tree by --taxonomy: without a student there is none to take it from")
    return load_dataset(read_data(adapter.parent), "test").taxonomy


def compose(group: str, name: str, schema: type) -> Any:
    """One entry of a group of ``conf``, as its dataclass; a ``SekdError`` where there is none of that name."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    if not (CONF / group / f"{name}.yaml").is_file():
        known = ", ".join(sorted(file.stem for file in (CONF / group).glob("*.yaml")))
        raise SekdError(f"{group} {name!r} is unknown: conf/{group} holds {known}")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        content = hydra_compose(f"{group}/{name}")[group]
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), content))


def write(predictions: Sequence[Any], out: Path | None) -> None:
    """One row an image, on the terminal or in the file."""
    if out is not None:
        import pyarrow as pa
        from pyarrow import csv, parquet

        rows = pa.Table.from_pylist(table(predictions))
        (parquet.write_table if out.suffix == ".parquet" else csv.write_csv)(rows, out)
        print(f"wrote {len(predictions)} predictions to {out}")
        return
    for prediction in predictions:
        if prediction.fault:
            print(f"{prediction.image}: {prediction.fault}", file=sys.stderr)
        else:
            path = " > ".join(f"{level.name} ({_percent(level.probability)})" for level in prediction.levels)
            print(f"{prediction.image}: {path}")


def table(predictions: Sequence[Any]) -> list[dict[str, Any]]:
    """Each image's levels' names and probabilities, the path's probability and its passes, in the same columns."""
    names = list(dict.fromkeys(level.level for prediction in predictions for level in prediction.levels))
    rows = []
    for prediction in predictions:
        found = {level.level: level for level in prediction.levels}
        row: dict[str, Any] = {"image": str(prediction.image)}
        for name in names:
            row[name] = found[name].name if name in found else None
            row[f"{name}_probability"] = _rounded(found[name].probability) if name in found else None
        row["probability"] = None if prediction.fault else _rounded(prediction.probability)
        rows.append(row | {"passes": prediction.passes, "fault": prediction.fault or None})
    return rows


def _rounded(probability: float) -> float | None:
    return None if math.isnan(probability) else round(probability, 6)


def _percent(probability: float) -> str:
    return "unsure" if math.isnan(probability) else f"{100 * probability:.0f} %"


if __name__ == "__main__":
    main()
