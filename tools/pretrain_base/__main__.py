"""``python -m tools.pretrain_base [FOLDER]``: pretrain the embedded base model, by default in place."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path

from sekd.embedded import BASE
from tools.pretrain_base.train import ROUNDS, Mixture, Settings, pretrain


def main() -> None:
    """Run both rounds; an option replaces its setting in both."""
    parser = argparse.ArgumentParser(prog="python -m tools.pretrain_base", description="Pretrain the embedded model.")
    parser.add_argument("folder", nargs="?", type=Path, default=BASE)
    for field, default in {**asdict(Mixture()), **asdict(Settings())}.items():
        parser.add_argument(f"--{field}", type=type(default), help="in both rounds")
    given = {field: value for field, value in vars(parser.parse_args()).items() if value is not None}
    folder = given.pop("folder")
    mixture = Mixture(**{field: given.pop(field) for field in asdict(Mixture()) if field in given})
    for number, settings in enumerate(ROUNDS):
        pretrain(folder, mixture, replace(settings, **given), start=folder if number else None)


if __name__ == "__main__":
    main()
