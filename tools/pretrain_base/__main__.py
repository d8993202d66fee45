"""``python -m tools.pretrain_base [FOLDER]``: pretrain the base model of an embedded world, by default in place."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path

from sekd.embedded.world import WORLDS
from tools.pretrain_base.train import MIXTURES, ROUNDS, Mixture, Settings, pretrain


def main() -> None:
    """Run every round; an option replaces its setting in all of them."""
    parser = argparse.ArgumentParser(prog="python -m tools.pretrain_base", description="Pretrain an embedded model.")
    parser.add_argument("folder", nargs="?", type=Path, help="by default the folder of the world's shipped model")
    parser.add_argument("--world", choices=WORLDS, default="demo")
    for field, default in {**asdict(Mixture()), **asdict(Settings())}.items():
        parser.add_argument(f"--{field}", type=type(default), help="in every round")
    given = {field: value for field, value in vars(parser.parse_args()).items() if value is not None}
    world = WORLDS[given.pop("world")]
    folder = given.pop("folder", world.base)
    mixture = replace(
        MIXTURES[world.name], **{field: given.pop(field) for field in asdict(Mixture()) if field in given}
    )
    for number, settings in enumerate(ROUNDS[world.name]):
        pretrain(folder, world, mixture, replace(settings, **given), start=folder if number else None)


if __name__ == "__main__":
    main()
