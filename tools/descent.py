"""``python -m tools.descent [--adapter runs/demo/adapter]``: how many paths a descent finds on the embedded world.

Prints a Markdown table by kingdom and beam: the share of test images whose whole path is found without a label, the
questions an image, and how far the paths' probabilities are from the share that is right (expected calibration error).
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sekd.datasets import DataConfig, Dataset, load_dataset
from sekd.embedded.kingdoms import KINGDOMS
from sekd.errors import exit_on_error
from sekd.evaluation.calibration import summarise
from sekd.evaluation.predict import compose
from sekd.inference.config import EngineConfig
from sekd.inference.engine import Engine
from sekd.inference.schedule import Conversation
from sekd.inference.strategies import Strategies, Subject
from sekd.machine import engine_of_this_machine
from sekd.models import ModelConfig, load_processor
from sekd.prompts import Prompter
from sekd.taxonomy import Names

COLUMNS = "| kingdom | beam | paths found % | questions an image | calibration error, points |"


def one(strategies: Strategies, dataset: Dataset, place: int, beam: int) -> Conversation[Any]:
    """The descent for one image: its label, the path found, its probability, and the number of questions."""
    example = dataset.examples[place]
    about = Subject(dataset.image_path(example), example.id, (), sample=example.id)
    found = yield from strategies.descend(
        about, dataset.taxonomy, roots=dataset.roots, options=dataset.config.options, beam=beam
    )
    path: Names = found.paths[0].node
    return example.path, path, math.exp(found.paths[0].logprob), found.calls


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.descent", description=__doc__)
    parser.add_argument("--adapter", type=Path, help="a student, runs/<name>/adapter; by default the base is asked")
    parser.add_argument("--limit", type=int, help="so many images of each kingdom; by default all of the test split")
    arguments = parser.parse_args()
    with exit_on_error():
        model, data = compose("model", "tiny", ModelConfig), compose("data", "demo", DataConfig)
        engine = compose("engine", engine_of_this_machine(), EngineConfig)
        strategies = Strategies(Prompter.named(model.wording), load_processor(model), topk=32)
        lines = []
        with Engine(model, engine, adapter=arguments.adapter) as asked:
            for kingdom in tqdm(KINGDOMS, unit="kingdom"):
                within = replace(data, within={"kingdom": [kingdom]}, limit=arguments.limit)
                dataset = load_dataset(within, "test")
                for beam in (1, 3):
                    places = range(len(dataset.examples))
                    found = list(asked.drive(one(strategies, dataset, place, beam) for place in places))
                    pairs = [(probability, truth == path) for truth, path, probability, _ in found]
                    right = 100 * sum(is_right for _, is_right in pairs) / len(pairs)
                    calls = sum(calls for *_, calls in found) / len(found)
                    error = summarise(pairs)["error"]
                    lines.append(f"| {kingdom} | {beam} | {right:.1f} | {calls:.0f} | {error:.1f} |")
        print("\n".join([COLUMNS, "|---|---:|---:|---:|---:|", *lines]))


if __name__ == "__main__":
    main()
