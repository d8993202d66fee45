"""``sekd init FOLDER``: a project folder with a copy of the settings, a Makefile and a few lines about them."""

import argparse
import shutil
from pathlib import Path

from sekd.config_folders import CONF
from sekd.errors import SekdError, exit_on_error

MAKEFILE = """\
# Each command of `sekd` as a target: make teacher DATA=photos ROOT=~/pictures TAXONOMY=tree.csv ARGS="topk=8"
WORDS := DATA MODEL ROOT TAXONOMY RUN WORKERS CLUSTER TASKS WHAT WHERE PARADIGMS SEEDS

help:
	@sekd --help

%:
	sekd $@ $(foreach word,$(WORDS),$(if $($(word)),$(word)="$($(word))")) $(ARGS) $(IMAGES)

Makefile: ;
.PHONY: help
"""
README = """\
`conf/` is a copy of SEKD's settings. What is changed here counts for every command that runs in this folder; a file
that is deleted here is the package's again. Passes are stored in `artifacts/`, students in `runs/`.
`sekd doctor` says what fits this machine, `sekd --help` lists the commands.
"""


def write_project(folder: Path) -> None:
    """Write the three; a ``SekdError`` where one of them exists."""
    taken = [name for name in ("conf", "Makefile", "README.md") if (folder / name).exists()]
    if taken:
        raise SekdError(f"{folder} holds {', '.join(taken)} already: name a new folder, or move them away")
    shutil.copytree(CONF, folder / "conf", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "Makefile").write_text(MAKEFILE, encoding="utf-8")
    (folder / "README.md").write_text(README, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="sekd init", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="by default the working directory")
    folder = parser.parse_args().folder
    with exit_on_error():
        write_project(folder)
        print(f"wrote {folder / 'conf'}, {folder / 'Makefile'} and {folder / 'README.md'}")


if __name__ == "__main__":
    main()
