"""``make figures``: the pictures of the README, ``docs/results.png`` of a run's scores and ``docs/world.png``."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from sekd.embedded.kingdoms import KINGDOMS
from sekd.embedded.render import SIDE
from sekd.embedded.world import picture, sample
from sekd.errors import exit_on_error
from sekd.evaluation.report.sections import base_and_student, hca_plot
from sekd.evaluation.rescore import read_scores
from sekd.recent import run_folder


def world(columns: int = 10, seed: int = 0) -> Image.Image:
    """One row of random images a kingdom."""
    rng = np.random.default_rng(seed)
    sheet = Image.new("RGB", (columns * SIDE, len(KINGDOMS) * SIDE))
    for row, kingdom in enumerate(KINGDOMS.values()):
        for column, values in enumerate(sample(kingdom, rng, columns)):
            sheet.paste(picture(kingdom, values, rng), (column * SIDE, row * SIDE))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.figures", description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, help="as runs/demo; by default the newest student's")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="the folder of the two pictures")
    given = parser.parse_args()
    with exit_on_error():
        scores = read_scores(run_folder(given.run, whole_group=True))
        hca_plot(base_and_student(scores)).savefig(given.out / "results.png", dpi=145)
        world().save(given.out / "world.png", optimize=True)
        print(f"wrote {given.out / 'results.png'} and {given.out / 'world.png'}")


if __name__ == "__main__":
    main()
