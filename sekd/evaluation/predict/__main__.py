"""``python -m sekd.evaluation.predict --adapter runs/demo/adapter --taxonomy tree.json image…``: name your own images.

The student answers every level of the tree in one pass over the image. Where a level has more names than --options,
further passes decide among the rest (see ``narrowing``); a tree that holds the plausible candidates alone takes one.
"""

import argparse
from pathlib import Path
from typing import Any

from sekd.datasets.config import CONFIGS, DataConfig
from sekd.errors import SekdError, exit_on_error
from sekd.evaluation.students import read_base, read_data
from sekd.inference.config import EngineConfig
from sekd.machine import engine_of_this_machine
from sekd.models import ModelConfig
from sekd.recent import run_folder
from sekd.taxonomy import Taxonomy, load_taxonomy

CONF = CONFIGS.parent


def main() -> None:
    arguments = _parser().parse_args()
    with exit_on_error():
        _predict(arguments)


def _parser() -> argparse.ArgumentParser:
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
    return parser


def _predict(arguments: argparse.Namespace) -> None:
    from sekd.evaluation.predict.answer import find_images
    from sekd.evaluation.predict.narrowing import roots_of
    from sekd.evaluation.predict.output import check_target, write

    check_target(arguments.out)
    if not 2 <= arguments.options <= 26:
        raise SekdError(f"--options {arguments.options}: expected 2 to 26, a letter each")
    images = find_images(arguments.images)
    if arguments.adapter is None and arguments.model is None:
        arguments.adapter = run_folder(None) / "adapter"
    taxonomy = read_taxonomy(arguments)
    roots, model = roots_of(taxonomy, arguments.root), read_model(arguments)
    write(_answers(arguments, model, images, taxonomy, roots), arguments.out)


def _answers(
    arguments: argparse.Namespace,
    model: ModelConfig,
    images: list[Path],
    taxonomy: Taxonomy,
    roots: list[tuple[str, ...]],
) -> list[Any]:
    # Imported once everything that can be wrong has been looked at: vLLM takes seconds.
    from tqdm import tqdm

    from sekd.evaluation.predict.answer import predict
    from sekd.evaluation.students import check_adapter
    from sekd.inference.engine import Engine
    from sekd.inference.strategies import Strategies
    from sekd.models import load_processor
    from sekd.prompts import Prompter

    adapter = arguments.adapter
    if adapter:
        check_adapter(adapter, model)
    strategies = Strategies(Prompter.named(model.wording), load_processor(model), topk=4 * arguments.options)
    engine_config = read_engine(arguments.engine or engine_of_this_machine())
    with Engine(model, engine_config, adapter=adapter) as engine:
        found = predict(engine, strategies, images, taxonomy, roots=roots, most=arguments.options)
        predictions = list(tqdm(found, total=len(images), unit="image", disable=len(images) < 20))
    order = {image: place for place, image in enumerate(images)}
    return sorted(predictions, key=lambda prediction: order[prediction.image])


def read_taxonomy(arguments: argparse.Namespace) -> Taxonomy:
    """The tree of a file, or of a dataset of ``conf/data``, as that dataset asks about it."""
    from sekd.datasets import load_dataset

    levels = arguments.levels.split(",") if arguments.levels else None
    if arguments.taxonomy is None:
        if arguments.adapter is None:
            raise SekdError("name the tree by --taxonomy: without a student there is none to take it from")
        return load_dataset(read_data(arguments.adapter.parent), "test").taxonomy
    if Path(arguments.taxonomy).suffix:
        return load_taxonomy(arguments.taxonomy, skip=arguments.skip, level_names=levels)
    return load_dataset(compose("data", arguments.taxonomy, DataConfig), "test").taxonomy


def read_model(arguments: argparse.Namespace) -> ModelConfig:
    """The base: as named, or as the adapter's run recorded it."""
    if arguments.model:
        return compose("model", arguments.model, ModelConfig)
    if not arguments.adapter:
        raise SekdError("name the model by --model, or give the student's --adapter")
    return read_base(arguments.adapter.parent)


def read_engine(name: str) -> EngineConfig:
    return compose("engine", name, EngineConfig)


def compose(group: str, name: str, schema: type) -> Any:
    """One entry of a group of ``conf``, as its dataclass.

    Raises:
        SekdError: there is none of that name.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    if not (CONF / group / f"{name}.yaml").is_file():
        known = ", ".join(sorted(file.stem for file in (CONF / group).glob("*.yaml")))
        raise SekdError(f"{group} {name!r} is unknown: conf/{group} holds {known}")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        content = hydra_compose(f"{group}/{name}")[group]
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), content))


if __name__ == "__main__":
    main()
