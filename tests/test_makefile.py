"""The commands that `make` would run, by its command line."""

import shlex
import subprocess
from pathlib import Path

import pytest

from sekd.cli import COMMANDS

MAKEFILE = Path(__file__).parents[1] / "Makefile"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder with an environment that counts as installed."""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".ready").touch()
    return tmp_path


def commands(place: Path, *arguments: str) -> str:
    asked = ["make", "--dry-run", "--no-print-directory", f"--directory={place}", f"--file={MAKEFILE}", *arguments]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout


def test_clean_leaves_the_data_that_it_did_not_make(place: Path) -> None:
    for dataset in ("demo", "inat2021"):
        (place / "data" / dataset).mkdir(parents=True)
    removed = commands(place, "clean").replace("rm -rf", "echo")
    found = subprocess.run(["sh", "-c", removed], cwd=place, capture_output=True, text=True, check=True).stdout.split()
    assert "data/demo" in found
    assert not {"data", "data/", "data/inat2021"} & set(found)


def test_its_words_and_settings_reach_the_command_as_they_are(place: Path) -> None:
    shown = shlex.split(commands(place, "teacher", "DATA=inat", "ROOT=/my photos", 'ARGS=topk=8 data.name="a b"'))
    after = shown[shown.index("sekd.cli") + 1 :]
    assert after == ["teacher", "DATA=inat", "ROOT=/my photos", "topk=8", "data.name=a b"]


def test_every_command_is_a_target(place: Path) -> None:
    shown = commands(place, *COMMANDS).splitlines()
    assert {line.split()[4] for line in shown} == set(COMMANDS)


def test_what_the_tests_are_given_is_not_given_to_a_make_that_they_start(place: Path) -> None:
    python = place / ".venv" / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\n[ "$2" = pytest ] && echo "$@" && env\nexit 0\n')
    python.chmod(0o755)
    made = ["make", f"--directory={place}", f"--file={MAKEFILE}", "test-fast", "ARGS=-x"]
    said = subprocess.run(made, capture_output=True, text=True, check=True).stdout
    assert "-m pytest -m not slow -x" in said
    assert {"ARGS=", "MAKEFLAGS=", "MFLAGS="} <= set(said.splitlines())
