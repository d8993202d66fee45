"""``python -m tools.tree_count``: do students of more taxonomies do better on unseen ones?

Students of the world of many trees are distilled on 1, 2, 3, 5 and 8 trees, with the same number of images and steps,
and asked about the trees that none was distilled on. Prints a Markdown table and draws ``tree_count.png``. Finished
passes, students and answers are not made again.
"""

import argparse
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from sekd.embedded.forest import FOREST
from sekd.embedded.world import images_of
from sekd.errors import SekdError, exit_on_error
from sekd.evaluation.report import plots
from sekd.evaluation.scores import Bootstrap, CellResult, by_level, image_scores, read_run, recovered
from sekd.evaluation.students import BASE
from sekd.machine import usual_engines
from sekd.metrics import bootstrap_interval

FOREST_AND_BASE = ("data=forest", "model=tiny_forest")
PER_TREE = min(images_of(FOREST)["train_mini"].values())
WAYS = ("joint", "guided", "wrong_prefix")  # of asking the students
COLUMNS = (
    *("unseen tree", "taught by", "trees", "students", "HCA", "95 %", "of each choice"),
    *("share of the gap", "95 %", "leaf after own answers", "after wrong ones", "each level after a right parent"),
)


@dataclass(frozen=True)
class Choice:
    """Trees that some students are distilled on."""

    trees: tuple[str, ...]

    @property
    def name(self) -> str:
        return "-".join((str(len(self.trees)), *self.trees)).lower()


def choices(counts: Sequence[int], draws: int) -> Iterator[Choice]:
    """For each count as many different random choices of trees, or all where there are fewer.

    The choices of a count also depend on the counts before it.
    """
    rng, trees = np.random.default_rng(0), FOREST.in_domain
    for count in counts:
        found = dict.fromkeys(
            tuple(trees[index] for index in sorted(rng.choice(len(trees), count, replace=False))) for _ in range(1000)
        )
        yield from (Choice(each) for each in list(found)[:draws])


@dataclass(frozen=True)
class Study:
    """The students of one teacher. ``settings`` are those of the model that every command gets as well."""

    folder: Path
    teacher: str
    images: int
    settings: Sequence[str] = ()

    @property
    def run(self) -> Path:
        """Where the students and their scores are."""
        return self.folder / "runs" / self.teacher

    def distil(self, choice: Choice, seeds: Sequence[int]) -> None:
        """One pass over images of these trees, and a student a seed."""
        # Commands that run at a time do not share a folder of passes.
        artifacts = f"artifacts={self.folder / 'artifacts' / choice.name}"
        data = (f"data.classes=[{','.join(choice.trees)}]", f"data.limit={self.images}")
        common = (*data, artifacts, f"paradigm={self.teacher}")
        self._sekd("teacher", choice.name, *common, "workers=1")
        for seed in seeds:
            name = f"{choice.name}/seed{seed}"
            self._sekd(
                "student", name, *common, f"seed={seed}", f"name={name}", f"runs={self.run}", "trainer.threads=1"
            )

    def evaluate(self, limit: int) -> None:
        """Base and all students on the unseen trees, the same images for all."""
        place = (f"runs={self.run.parent}", f"name={self.run.name}")
        self._sekd(
            "evaluate", "all", *place, f"student=[{','.join(WAYS)}]", "base=[joint,conditioned]", f"limit={limit}"
        )

    def _sekd(self, command: str, name: str, *settings: str) -> None:
        line = [sys.executable, "-m", "sekd.cli", command, *FOREST_AND_BASE, *self.settings, *settings]
        log = self.folder / "logs" / self.teacher / f"{command}-{name.replace('/', '-')}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as output:
            if subprocess.run(line, stdout=output, stderr=subprocess.STDOUT).returncode:
                raise SekdError(f"sekd {command} of {name} failed: {log} says why")


@dataclass(frozen=True)
class Measured:
    """What the students of one number of trees reach on one unseen tree; percent, means over all of them."""

    tree: str
    count: int
    students: int
    choices: tuple[float, ...]  # HCA of each choice's students
    hca: float
    low: float
    high: float
    base: float  # the base in one reply
    steps: float  # and in conditioned steps
    gap: dict[str, Any] | None
    own: float  # accuracy at the last level after the student's own answers
    wrong: float  # and after wrong ones
    levels: tuple[float, ...]  # at each level after its own answers, the parent's being right

    def row(self, teacher: str) -> list[str]:
        gap = self.gap or dict.fromkeys(("value", "low", "high"), float("nan"))
        return [
            *(self.tree, teacher, str(self.count), str(self.students), f"{self.hca:.1f}"),
            *(f"{self.low:.1f} to {self.high:.1f}", ", ".join(f"{each:.1f}" for each in self.choices)),
            *(f"{gap['value']:.0f}", f"{gap['low']:.0f} to {gap['high']:.0f}", f"{self.own:.1f}", f"{self.wrong:.1f}"),
            " ".join(f"{each:.0f}" for each in self.levels),
        ]


def render_world() -> None:
    """Write the images, where they are missing, before commands that run at a time would all do so."""
    if not Path("data/forest/test.json").is_file():
        subprocess.run([sys.executable, "-m", "sekd.embedded.world", "--world", FOREST.name], check=True)


def measure(results: Sequence[CellResult], drawn: Sequence[Choice]) -> list[Measured]:
    """Every unseen tree and number of trees, of the students of these choices. Intervals are over images."""
    known = {BASE, *(choice.name for choice in drawn)}
    cells: dict[tuple[str, str], dict[str, list[CellResult]]] = defaultdict(lambda: defaultdict(list))
    for each in results:
        if each.cell.part == "unseen" and each.cell.model in known:
            cells[each.cell.tree, each.cell.paradigm][each.cell.model].append(each)
    found = []
    for tree in dict.fromkeys(tree for tree, _ in cells):
        joint = cells[tree, "joint"]
        base, steps = (image_scores(cells[tree, paradigm][BASE])["hca"] for paradigm in ("joint", "conditioned"))
        for count in sorted({int(model.split("-")[0]) for model in joint if model != BASE}):
            of = [model for model in joint if model.startswith(f"{count}-")]
            trained = {way: [each for model in of for each in cells[tree, way][model]] for way in WAYS}
            hca = image_scores(trained["joint"])["hca"]
            own, wrong = (float(image_scores(trained[way])["leaf"].mean()) for way in ("guided", "wrong_prefix"))
            per_choice = tuple(float(image_scores(joint[model])["hca"].mean()) for model in of)
            low, high = bootstrap_interval(hca)
            found.append(
                Measured(
                    tree=tree.removeprefix("forest_").capitalize(),
                    count=count,
                    students=len(trained["joint"]),
                    choices=per_choice,
                    hca=float(hca.mean()),
                    low=low,
                    high=high,
                    base=float(base.mean()),
                    steps=float(steps.mean()),
                    gap=recovered(hca, base, steps, Bootstrap()),
                    own=own,
                    wrong=wrong,
                    levels=after_right_parents(trained["guided"]),
                )
            )
    return found


def after_right_parents(results: Sequence[CellResult]) -> tuple[float, ...]:
    """Accuracy at each level where the parent is named right, percent, mean over these: where a path is lost."""
    scores = [by_level(each) for each in results]
    levels = [[top["accuracy"], *(each["given_right_parent"]["accuracy"] for each in below)] for top, *below in scores]
    return tuple(np.nanmean(np.array(levels, float), axis=0).tolist())


def plot(found: Mapping[str, Sequence[Measured]]) -> Figure:
    """HCA by the number of trees, a panel an unseen tree, a line a teacher, between the base's two scores."""
    panels: dict[str, list[plots.Line]] = defaultdict(list)
    for style, (teacher, rows) in enumerate(found.items()):
        for tree in dict.fromkeys(each.tree for each in rows):
            here = [each for each in rows if each.tree == tree]
            xs, intervals = [each.count for each in here], [(each.low, each.high) for each in here]
            line = plots.Line(f"student of {teacher} steps", xs, [each.hca for each in here], style, intervals)
            panels[tree].append(line)
            if not style:
                panels[tree] += [
                    plots.Line("base, one reply", xs, [each.base for each in here], 2),
                    plots.Line("base, conditioned steps", xs, [each.steps for each in here], 3),
                ]
    return plots.lines(panels, "trees distilled on", "HCA (%)", limits=(0, 100))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.tree_count", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/tree_count"))
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 3, 5, 8])
    parser.add_argument("--draws", type=int, default=3, help="choices of trees for each count")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--teachers", nargs="+", default=["conditioned", "independent"])
    parser.add_argument("--images", type=int, default=PER_TREE, help="of each pass, at most those of one tree")
    parser.add_argument("--limit", type=int, default=200, help="test images of each unseen tree")
    parser.add_argument("settings", nargs="*", help="of the model, for every command")
    given = parser.parse_args()
    if not all(1 <= count <= len(FOREST.in_domain) for count in given.counts):
        parser.error(
            f"--counts {' '.join(map(str, given.counts))}: there are {len(FOREST.in_domain)} trees to distil on"
        )
    if given.images > PER_TREE:
        parser.error(f"--images {given.images}: a choice of one tree has {PER_TREE} images, and others need as many")
    with exit_on_error():
        render_world()
        found = {}
        for teacher in given.teachers:
            study = Study(given.folder, teacher, given.images, given.settings)
            drawn = list(choices(given.counts, given.draws))
            with ThreadPoolExecutor(usual_engines()) as pool:
                done = pool.map(partial(study.distil, seeds=given.seeds), drawn)
                list(tqdm(done, total=len(drawn), desc=f"{teacher} teacher", unit="choice", dynamic_ncols=True))
            study.evaluate(given.limit)
            found[teacher] = measure(read_run(study.run), drawn)
        print(f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", sep="\n")
        for teacher, rows in found.items():
            for each in rows:
                print(f"| {' | '.join(each.row(teacher))} |")
        plot(found).savefig(given.folder / "tree_count.png", dpi=145)
        print(f"wrote {given.folder / 'tree_count.png'}")


if __name__ == "__main__":
    main()
