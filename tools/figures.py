"""``make figures``: the documentation's pictures, ``docs/results.png`` of a run's scores and one of each world."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from sekd.embedded.render import SIDE
from sekd.embedded.trees import World
from sekd.embedded.world import WORLDS, picture, sample
from sekd.errors import exit_on_error
from sekd.evaluation.report.sections import base_and_student, hca_plot
from sekd.evaluation.rescore import read_scores
from sekd.recent import run_folder

PICTURES = {"demo": "world.png", "forest": "forest.png"}


def draw(world: World, columns: int = 10, seed: int = 0) -> Image.Image:
    """One row of random images a tree."""
    rng = np.random.default_rng(seed)
    sheet = Image.new("RGB", (columns * SIDE, len(world.trees) * SIDE))
    for row, tree in enumerate(world.trees.values()):
        for column, values in enumerate(sample(tree, rng, columns)):
            sheet.paste(picture(tree, values, rng), (column * SIDE, row * SIDE))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.figures", description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, help="as runs/demo; by default the newest student's")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="the folder of the pictures")
    given = parser.parse_args()
    with exit_on_error():
        scores = read_scores(run_folder(given.run, whole_group=True))
        hca_plot(base_and_student(scores)).savefig(given.out / "results.png", dpi=145)
        for name, file in PICTURES.items():
            draw(WORLDS[name]).save(given.out / file, optimize=True)
        print(f"wrote {', '.join(str(given.out / file) for file in ('results.png', *PICTURES.values()))}")


if __name__ == "__main__":
    main()
