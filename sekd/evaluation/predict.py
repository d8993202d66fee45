"""``python -m sekd.evaluation.predict --adapter runs/demo/adapter --taxonomy tree.json image…``: name your own images.

The student finds each image's path by descent: at each node it chooses among the children, given the answers above.
More children than --options are asked about in heats. Stage 1 finds the paths of unlabelled images in the same way.
"""

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sekd.config_folders import CONF, entries, register
from sekd.datasets import load_dataset
from sekd.datasets.class_trees import read_hierarchy
from sekd.datasets.config import SPLITS, DataConfig
from sekd.datasets.images import SUFFIXES
from sekd.descent import PartialPath, check_threshold
from sekd.errors import SekdError, exit_on_error
from sekd.evaluation.students import check_adapter, read_base, read_data
from sekd.inference.config import EngineConfig
from sekd.inference.engine import Engine
from sekd.inference.requests import UnreadableImageError
from sekd.inference.schedule import Conversation
from sekd.inference.strategies import Strategies, Subject
from sekd.machine import engine_of_this_machine, require_vllm
from sekd.models import ModelConfig, load_processor
from sekd.prompts import Prompter
from sekd.questions import LETTERS
from sekd.recent import run_folder
from sekd.taxonomy import Names, Taxonomy, fold, load_taxonomy


@dataclass(frozen=True)
class Level:
    """One level of a path. ``probability`` is that among all children of the node above."""

    level: str
    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """One of an image's paths, the most probable of rank 1, and the number of questions that found them all.

    ``root`` is the skipped level's name, which nothing was asked about; ``fault`` the reason if there is no path.
    """

    image: Path
    rank: int = 1
    root: str | None = None
    levels: tuple[Level, ...] = ()
    questions: int = 0
    fault: str = ""

    @property
    def probability(self) -> float:
        """Of the whole path, below its root: the product over its levels."""
        return math.prod(level.probability for level in self.levels)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sekd.evaluation.predict", description=__doc__)
    parser.add_argument("images", nargs="+", type=Path, help="images, or folders of images")
    parser.add_argument(
        "--adapter", type=Path, help="the student, runs/<name>/adapter; by default the newest; the base under --model"
    )
    parser.add_argument(
        "--taxonomy",
        help='a tree: JSON {"leaf": ["coarse", …, "fine"]}, CSV, Newick, Darwin Core, or a conf/data name; by default '
        "the student's",
    )
    parser.add_argument("--levels", help="names of the levels, coarse to fine, by commas; the skipped ones too")
    parser.add_argument("--skip", type=int, default=0, help="so many first levels are not asked about")
    parser.add_argument("--root", help="the skipped node to stay below; of several the most probable is found")
    parser.add_argument("--options", type=int, default=4, help="most options a question; students learn four")
    parser.add_argument("--beam", type=int, default=3, help="partial paths that are kept; 1 is greedy")
    parser.add_argument("--top", type=int, default=1, help="so many paths of each image, the most probable first")
    parser.add_argument("--stop", type=float, default=0.0, help="end a path at its deepest node of this probability")
    parser.add_argument("--model", help="entry of conf/model; by default the one that the adapter was trained from")
    parser.add_argument("--engine", help="entry of conf/engine; by default what fits this machine")
    parser.add_argument("--config-dir", help="a folder of settings, on top of the package's")
    parser.add_argument("--out", type=Path, help="a .csv or .parquet file, instead of the terminal")
    with exit_on_error():
        _predict(parser.parse_args())


def _predict(arguments: argparse.Namespace) -> None:
    out, adapter = arguments.out, arguments.adapter
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise SekdError(f"--out {out}: expected a file that ends in .csv or .parquet")
    if out is not None and not out.parent.is_dir():
        raise SekdError(f"--out {out}: there is no folder {out.parent}; make it first")
    if not 2 <= arguments.options <= len(LETTERS):
        raise SekdError(f"--options {arguments.options}: expected 2 to {len(LETTERS)}, a letter each")
    if min(arguments.beam, arguments.top) < 1:
        raise SekdError("--beam and --top: expected at least 1")
    check_threshold(arguments.stop, "--stop")
    images = find_images(arguments.images)
    if adapter is None and arguments.model is None:
        adapter = run_folder(None) / "adapter"
    taxonomy = read_taxonomy(arguments, adapter)
    roots = roots_of(taxonomy, arguments.root)
    model = compose("model", arguments.model, ModelConfig) if arguments.model else read_base(adapter.parent)
    if adapter:
        check_adapter(adapter, model)
    require_vllm()
    strategies = Strategies(Prompter.named(model.wording), load_processor(model), topk=4 * arguments.options)
    one = partial(
        predict,
        strategies,
        taxonomy,
        roots=roots,
        options=arguments.options,
        beam=max(arguments.beam, arguments.top),
        top=arguments.top,
        stop=arguments.stop,
    )
    engine_config = compose("engine", arguments.engine or engine_of_this_machine(), EngineConfig)
    with Engine(model, engine_config, adapter=adapter) as engine:
        found = engine.drive(one(image) for image in images)
        by_image = {paths[0].image: paths for paths in tqdm(found, total=len(images), unit="image", delay=2)}
    write([prediction for image in images for prediction in by_image[image]], out)


def predict(
    strategies: Strategies,
    taxonomy: Taxonomy,
    image: Path,
    *,
    roots: Sequence[Names],
    options: int,
    beam: int,
    top: int = 1,
    stop: float = 0.0,
) -> Conversation[list[Prediction]]:
    """The conversation that finds an image's ``top`` most probable paths, each cut where it is less sure than ``stop``.

    Args:
        roots: the nodes to start below. Of several the one with the most probable path comes first: the model was never
            asked to choose between trees.
    """
    subject = Subject(image, str(image.resolve()), (), sample=image.name)
    try:
        found = yield from strategies.descend(subject, taxonomy, roots=roots, options=options, beam=beam)
    except UnreadableImageError as error:
        return [Prediction(image, fault=str(error))]
    predictions: list[Prediction] = []
    for path in found.paths:
        prediction = _prediction(image, len(predictions) + 1, path, taxonomy, stop, found.calls)
        others = [(other.root, other.levels[: len(prediction.levels)]) for other in predictions]
        if len(predictions) < top and (prediction.root, prediction.levels) not in others:
            predictions.append(prediction)  # cut paths may agree, and only the first is told
    return predictions


def _prediction(
    image: Path, rank: int, path: PartialPath, taxonomy: Taxonomy, stop: float, questions: int
) -> Prediction:
    skip, sure = taxonomy.skip, path.levels_kept(stop)
    above = (0.0, *path.logprobs)
    levels = tuple(
        Level(taxonomy.level_name(skip + depth), path.node[skip + depth], math.exp(path.logprobs[depth] - above[depth]))
        for depth in range(sure)
    )
    fault = "" if levels else f"outside the tree: the first answer is less probable than {stop}"
    root = path.node[skip - 1] if skip else None
    return Prediction(image, rank, root, levels, questions=questions, fault=fault)


def find_images(paths: Iterable[Path]) -> list[Path]:
    """The files as given, and every image below the folders among them, in stable order.

    Raises:
        SekdError: a path does not exist, or there is no image.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise SekdError(f"{path} does not exist: expected an image or a folder of images")
        below = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES) if path.is_dir() else []
        seen = [file for file in below if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        found += seen if path.is_dir() else [path]
    if not found:
        raise SekdError(f"no image found: expected files that end in {', '.join(SUFFIXES)}")
    return list(dict.fromkeys(found))


def roots_of(taxonomy: Taxonomy, name: str | None) -> Sequence[Names]:
    """The nodes that the asked levels lie below: the one named, or all.

    Raises:
        SekdError: the tree has no root of that name, or nothing to choose.
    """
    roots = taxonomy.roots_with_a_choice()
    if not roots:
        raise SekdError("the taxonomy has no node with several children among the levels that are asked about")
    if taxonomy.skip == 0:
        if name is not None:
            raise SekdError(f"--root {name}: the taxonomy skips no level, so it has one root; leave out --root")
        return roots
    wanted = [root for root in roots if name is None or fold(root[-1]) == fold(name)]
    if not wanted:
        known = ", ".join(root[-1] for root in roots)
        raise SekdError(f"--root {name}: the taxonomy has no such root, choose among {known}")
    return wanted


def read_taxonomy(arguments: argparse.Namespace, adapter: Path | None) -> Taxonomy:
    """The tree of a file, or of a dataset of ``conf/data``, as that dataset asks about it.

    Raises:
        SekdError: there is no such tree, or levels are set for a dataset's tree.
    """
    if arguments.taxonomy and Path(arguments.taxonomy).suffix:
        levels = arguments.levels.split(",") if arguments.levels else None
        return load_taxonomy(arguments.taxonomy, skip=arguments.skip, level_names=levels)
    if arguments.skip or arguments.levels:
        raise SekdError("--skip and --levels describe a file of --taxonomy; a dataset has its own: leave them out")
    if arguments.taxonomy:
        data = compose("data", arguments.taxonomy, DataConfig)
    elif adapter is None:
        raise SekdError("name the tree by --taxonomy: without a student there is none to take it from")
    else:
        data = read_data(adapter.parent)
    if not data.labelled:  # the images that the student learnt from may be gone; the tree is a file
        return read_hierarchy(data)
    split = next(name for name in reversed(SPLITS) if data.splits.get(name))
    return load_dataset(data, split).taxonomy


def compose(group: str, name: str, schema: type) -> Any:
    """One entry of a group of ``conf``, as its dataclass; a ``SekdError`` where there is none of that name."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    if name not in (known := entries(group)):
        raise SekdError(f"{group} {name!r} is unknown: conf/{group} holds {', '.join(known)}")
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        content = hydra_compose(f"{group}/{name}")[group]
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), content))


def write(predictions: Sequence[Prediction], out: Path | None) -> None:
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
            continue
        names = [f"{level.name} ({100 * level.probability:.0f} %)" for level in prediction.levels]
        print(f"{prediction.image}: {' > '.join([prediction.root, *names] if prediction.root else names)}")


def table(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Each path's names and probabilities by level, its own probability and its questions, in the same columns."""
    names = list(dict.fromkeys(level.level for prediction in predictions for level in prediction.levels))
    rooted = any(prediction.root for prediction in predictions)
    rows = []
    for prediction in predictions:
        found = {level.level: level for level in prediction.levels}
        row: dict[str, Any] = {"image": str(prediction.image), "rank": prediction.rank}
        row |= {"root": prediction.root} if rooted else {}
        for name in names:
            row[name] = found[name].name if name in found else None
            row[f"{name}_probability"] = round(found[name].probability, 6) if name in found else None
        row["probability"] = None if prediction.fault else round(prediction.probability, 6)
        rows.append(row | {"questions": prediction.questions, "fault": prediction.fault or None})
    return rows


if __name__ == "__main__":
    main()
