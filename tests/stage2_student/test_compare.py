"""One table of all students: grouped over seeds, best first."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from student_settings import Configure

from sekd.errors import SekdError
from stage2_student.compare import labels, ranked, read_rows, table
from stage2_student.config import HardConfig, LossConfig, RehearsalConfig, StudentConfig

HARDLY = LossConfig(name="hardly", hard=HardConfig(weight=0.1))


def write(runs: Path, config: StudentConfig, hca: float) -> None:
    run = runs / str(config.name)
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump({**asdict(config), "fingerprint": "f" * 16}))
    (run / "metrics.json").write_text(json.dumps({"val": {"hca": hca, "parse_failures": 100 - hca}}))


@pytest.fixture
def runs(configure: Configure, tmp_path: Path) -> Path:
    runs = tmp_path / "all"
    for seed, hca in enumerate((70.0, 80.0, 90.0)):
        write(runs, configure(name=f"all/seed{seed}", seed=seed), hca)
    for seed, hca in enumerate((91.0, 93.0)):
        write(runs, configure(name=f"hardly/seed{seed}", seed=seed, loss=HARDLY), hca)
    return runs


def test_seeds_are_one_row_with_mean_and_spread_and_the_best_comes_first(runs: Path) -> None:
    rows = ranked(read_rows(runs), "hca")
    assert labels(rows) == ["hardly", "all"]
    assert [len(row.seeds) for row in rows] == [2, 3]
    lines = table(rows).splitlines()
    assert "92.0 ± 1.4" in lines[2]
    assert "80.0 ± 10.0" in lines[3]


def test_parse_failures_rank_the_other_way(runs: Path) -> None:
    assert labels(ranked(read_rows(runs), "parse_failures"))[0] == "hardly"


def test_rows_are_named_by_the_single_setting_in_which_they_differ(configure: Configure, tmp_path: Path) -> None:
    for rate in (0.1, 0.2):
        config = configure(name=f"{rate}")
        write(tmp_path / "some", replace(config, optim=replace(config.optim, lr=rate)), 100 * rate)
    assert labels(ranked(read_rows(tmp_path / "some"), "hca")) == ["optim.lr=0.2", "optim.lr=0.1"]


def test_a_setting_that_older_runs_lack_is_named_by_its_value(configure: Configure, tmp_path: Path) -> None:
    for weight in (1.0, 4.0):
        rehearsal = RehearsalConfig(requests=["describe"], weight=weight)
        write(tmp_path / "some", configure(name=f"{weight}", rehearsal=rehearsal), 10 * weight)
    named = ["rehearsal.weight=4.0", "rehearsal.weight=1.0"]
    assert labels(ranked(read_rows(tmp_path / "some"), "hca")) == named


def test_a_run_that_has_not_ended_is_not_compared(runs: Path) -> None:
    (runs / "hardly" / "seed1" / "metrics.json").unlink()
    assert [len(row.seeds) for row in ranked(read_rows(runs), "hca")] == [1, 3]


def test_nothing_to_compare_is_an_error_that_says_what_makes_some(tmp_path: Path) -> None:
    with pytest.raises(SekdError, match="make student"):
        read_rows(tmp_path)
