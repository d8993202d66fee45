"""The commands that `make` would run, by its command line."""

import subprocess
from pathlib import Path

import pytest

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


def test_a_run_of_another_model_than_the_datas_own_is_found_by_data_and_model(place: Path) -> None:
    (place / "runs" / "inat-qwen3_vl_4b").mkdir(parents=True)
    assert "sekd.evaluation.report runs/inat-qwen3_vl_4b" in commands(place, "report", "DATA=inat", "MODEL=qwen3_vl_4b")
    assert "sekd.evaluation.report runs/inat " in commands(place, "report", "DATA=inat", "MODEL=qwen2_5_vl_3b")
    assert "sekd.evaluation.report runs/mine " in commands(place, "report", "DATA=inat", "RUN=mine")


def test_the_controls_are_reported_where_they_were_trained(place: Path) -> None:
    """Their folder is named when they are trained, after `make` has read its command line."""
    shown = commands(place, "controls", "DATA=inat", "MODEL=qwen3_vl_4b")
    assert "sekd.evaluation.report\n" in shown
