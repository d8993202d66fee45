"""``python -m tools.descent [--adapter runs/demo/adapter]``: what a descent finds on the embedded world.

Prints three Markdown tables over the test images: paths found by kingdom and beam; where paths stop by threshold; and
how well images of kingdoms outside the tree are refused, where there is one of them to nine others.
"""

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from sekd.datasets import DataConfig, Dataset, Example, load_dataset
from sekd.descent import depth_to_stop
from sekd.embedded.kingdoms import IN_DOMAIN, KINGDOMS, UNSEEN
from sekd.errors import SekdError, exit_on_error
from sekd.evaluation.behaviour import summarise
from sekd.evaluation.predict import compose
from sekd.inference.config import EngineConfig
from sekd.inference.engine import Engine
from sekd.inference.schedule import Conversation
from sekd.inference.strategies import Strategies, Subject
from sekd.machine import engine_of_this_machine
from sekd.models import ModelConfig, load_processor
from sekd.prompts import Prompter
from sekd.taxonomy import Names, fold_path

BEAMS = (1, 3)
THRESHOLDS = (0.5, 0.9, 0.99, 0.999)


class Descended(NamedTuple):
    """An image's label, the path found, the log of its probability at each level, and the number of questions."""

    label: Names
    path: Names
    logprobs: tuple[float, ...]
    questions: int


def find(
    asked: Engine, strategies: Strategies, tree: Dataset, examples: Iterable[Example], beam: int
) -> list[Descended]:
    """Paths of the examples in the tree of a dataset."""

    def one(example: Example) -> Conversation[Descended]:
        about = Subject(tree.image_path(example), example.id, (), sample=example.id)
        options = tree.config.options
        found = yield from strategies.descend(about, tree.taxonomy, roots=tree.roots, options=options, beam=beam)
        return Descended(example.path or (), found.paths[0].node, found.paths[0].logprobs, found.calls)

    return list(asked.drive(one(example) for example in examples))


def paths_found(kingdom: str, beam: int, found: Sequence[Descended]) -> list[Any]:
    pairs = [(math.exp(each.logprobs[-1]), each.label == each.path) for each in found]
    right = 100 * sum(is_right for _, is_right in pairs) / len(pairs)
    return [kingdom, beam, right, sum(each.questions for each in found) / len(found), summarise(pairs)["error"]]


def stops(threshold: float, found: Sequence[Descended]) -> list[Any]:
    answered = [each.path[1 : 1 + depth_to_stop(each.logprobs, threshold)] for each in found]
    scores = stopping_scores([each.label[1:] for each in found], answered)
    return [threshold, *(scores[kind] for kind in ("exact", "too_coarse", "too_fine", "wrong"))]


def refusals(threshold: float, inside: Sequence[Descended], outside: Sequence[Descended]) -> list[Any]:
    refused = [math.exp(each.logprobs[-1]) < threshold for each in (*inside, *outside)]
    scores = open_set_scores([False] * len(inside) + [True] * len(outside), refused)
    return [threshold, scores["precision"], scores["recall"]]


def stopping_scores(truth: Sequence[Names], answered: Sequence[Names]) -> dict[str, Any]:
    """Of N answered paths, each cut where it stopped: the shares in percent that are

    "exact": the truth itself;
    "too_coarse": a beginning of the truth, the empty path included;
    "too_fine": the whole truth and more below it;
    "wrong": the rest, with a node that the truth does not hold.
    """
    if len(truth) != len(answered) or not truth:
        raise SekdError(f"scores need as many answers as true paths: got {len(answered)} for {len(truth)}")
    pairs = [(fold_path(t), fold_path(a)) for t, a in zip(truth, answered, strict=True)]
    kinds = [_kind(t, a) for t, a in pairs]
    result: dict[str, Any] = {"n": len(pairs)}
    for kind in ("exact", "too_coarse", "too_fine", "wrong"):
        result[kind] = 100 * kinds.count(kind) / len(kinds)
    return result


def _kind(truth: Names, answered: Names) -> str:
    if answered == truth:
        return "exact"
    if answered == truth[: len(answered)]:
        return "too_coarse"
    return "too_fine" if truth == answered[: len(truth)] else "wrong"


def open_set_scores(outside_N: Sequence[bool], refused_N: Sequence[bool]) -> dict[str, Any]:
    """How well images that the tree does not hold are found, in percent.

    Args:
        outside_N: whether an image is outside the tree.
        refused_N: whether its path ended before the first level.

    Returns:
        "precision": of the refused, the share that is outside; None where none is refused. "recall": of those outside,
        the share that is refused; None where none is outside. "n", "outside" and "refused", numbers of images.
    """
    outside, refused = np.asarray(outside_N, bool), np.asarray(refused_N, bool)
    both = int((outside & refused).sum())
    counts = {"n": len(outside), "outside": int(outside.sum()), "refused": int(refused.sum())}
    return {
        "precision": 100 * both / counts["refused"] if counts["refused"] else None,
        "recall": 100 * both / counts["outside"] if counts["outside"] else None,
        **counts,
    }


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)]]
    lines += [[_shown(cell) if place else str(cell) for place, cell in enumerate(row)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(cell: Any) -> str:
    return "–" if cell is None else f"{cell:.1f}" if isinstance(cell, float) else str(cell)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.descent", description=__doc__)
    parser.add_argument("--adapter", type=Path, help="a student, runs/<name>/adapter; by default the base is asked")
    parser.add_argument("--limit", type=int, help="so many images of each kingdom; by default all of the test split")
    arguments = parser.parse_args()
    with exit_on_error():
        model, data = compose("model", "tiny", ModelConfig), compose("data", "demo", DataConfig)
        engine = compose("engine", engine_of_this_machine(), EngineConfig)
        strategies = Strategies(Prompter.named(model.wording), load_processor(model), topk=32)

        def images(*kingdoms: str) -> Dataset:
            return load_dataset(replace(data, within={"kingdom": list(kingdoms)}, limit=arguments.limit), "test")

        found, stopped = [], []
        with Engine(model, engine, adapter=arguments.adapter) as asked:
            for kingdom in tqdm(KINGDOMS, unit="kingdom"):
                own = images(kingdom)
                for beam in BEAMS:
                    paths = find(asked, strategies, own, own.examples, beam)
                    found.append(paths_found(kingdom, beam, paths))
                stopped += paths
            tree, others = images(*IN_DOMAIN), images(*UNSEEN)
            inside = find(asked, strategies, tree, tree.examples, 1)
            outside = find(asked, strategies, tree, others.examples[: len(inside) // 9], 1)
        print(table(["kingdom", "beam", "paths found %", "questions an image", "calibration error, points"], found))
        print(f"\n{len(stopped)} images, each in its own kingdom:\n")
        rows = (stops(threshold, stopped) for threshold in THRESHOLDS)
        print(table(["stop below", "exact %", "too coarse %", "too fine %", "wrong %"], rows))
        print(f"\n{len(inside)} images of {', '.join(IN_DOMAIN)} and {len(outside)} of kingdoms outside the tree:\n")
        rows = (refusals(threshold, inside, outside) for threshold in THRESHOLDS)
        print(table(["path probability below", "refused that are outside %", "outside that are refused %"], rows))


if __name__ == "__main__":
    main()
