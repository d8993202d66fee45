"""The study of the number of trees: which trees are taught, by which commands, and what the table says."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import write_run

from sekd.embedded.forest import FOREST
from sekd.errors import SekdError
from sekd.evaluation.scores import paths, read_run
from sekd.metrics import score
from tools.tree_count import COLUMNS, WAYS, Choice, Study, choices, main, measure, plot


def test_each_number_of_trees_is_chosen_in_different_ways_and_all_trees_in_one() -> None:
    drawn = list(choices([1, 3, 8], 3))
    assert drawn == list(choices([1, 3, 8], 3))
    assert len(set(drawn)) == len(drawn)
    assert [len(each.trees) for each in drawn] == [1, 1, 1, 3, 3, 3, 8]
    assert all(set(each.trees) <= set(FOREST.in_domain) for each in drawn)
    assert Choice(("Boat", "Bird")).name == "2-boat-bird"


def test_the_table_has_the_mean_over_all_students_of_as_many_trees(tmp_path: Path) -> None:
    write_run(
        tmp_path, trees=("forest", "forest_kite"), students=("1-boat", "1-bird", "1-robot", "2-boat-bird"), ways=WAYS
    )
    results = read_run(tmp_path)

    def mean(metric: str, way: str, *models: str) -> float:
        cells = [each for each in results if (each.cell.tree, each.cell.paradigm) == ("forest_kite", way)]
        return float(np.mean([score(*paths(each))[metric] for each in cells if each.cell.model in models]))

    drawn = [Choice(("Boat",)), Choice(("Bird",)), Choice(("Boat", "Bird"))]  # the robot's student is another study's
    one, two = measure(results, drawn)
    assert (one.tree, one.count, one.students, two.count, two.students) == ("Kite", 1, 4, 2, 2)
    assert one.hca == pytest.approx(mean("hca", "joint", "1-boat", "1-bird"))
    assert sorted(one.choices) == pytest.approx(sorted(mean("hca", "joint", name) for name in ("1-boat", "1-bird")))
    assert one.own == pytest.approx(mean("leaf", "guided", "1-boat", "1-bird"))
    assert two.wrong == pytest.approx(mean("leaf", "wrong_prefix", "2-boat-bird"))
    base, steps = mean("hca", "joint", "base"), mean("hca", "conditioned", "base")
    assert two.gap
    assert two.gap["value"] == pytest.approx(100 * (two.hca - base) / (steps - base))
    counted = []
    for each in results:
        if (each.cell.tree, each.cell.model, each.cell.paradigm) == ("forest_kite", "2-boat-bird", "guided"):
            answered = list(zip(*paths(each), strict=True))
            after_right = [[p for p in answered if not i or p[0][i - 1] == p[1][i - 1]] for i in range(len(two.levels))]
            counted.append([100 * np.mean([t[i] == p[i] for t, p in kept]) for i, kept in enumerate(after_right)])
    assert two.levels == pytest.approx(np.mean(counted, axis=0).tolist())
    row = two.row("conditioned")
    assert len(row) == len(COLUMNS)
    assert row[:5] == ["Kite", "conditioned", "2", "2", f"{two.hca:.1f}"]
    assert (two.base, two.steps) == pytest.approx((base, steps))
    (axes,) = plot({"conditioned": [one, two]}).axes
    assert [line.get_ydata().tolist() for line in axes.lines] == [  # type: ignore[union-attr]
        [one.hca, two.hca],
        [one.base, one.base],
        [one.steps, one.steps],
    ]
    (bars,) = axes.collections
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[one.low, one.high], [two.low, two.high]]
    assert axes.get_title(loc="left") == "Kite"


def test_no_choice_may_have_fewer_images_than_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["tree_count", "--images", "4001"])
    with pytest.raises(SystemExit):
        main()
    assert "--images 4001: a choice of one tree has 4000 images" in capsys.readouterr().err


@pytest.mark.parametrize("count", ["0", "9"])
def test_a_number_of_trees_that_there_is_not_is_refused(
    count: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["tree_count", "--counts", "1", count])
    with pytest.raises(SystemExit):
        main()
    assert f"--counts 1 {count}: there are 8 trees to distil on" in capsys.readouterr().err


def test_each_choice_is_taught_once_and_has_a_student_a_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[list[str]] = []

    def run(line: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        lines.append(line[3:])
        return subprocess.CompletedProcess(line, returncode=int("seed=1" in line))

    monkeypatch.setattr(subprocess, "run", run)
    study = Study(tmp_path, "independent", 60, ("model.path=here",))
    with pytest.raises(SekdError, match=r"sekd student of 2-boat-bird/seed1 failed: .*student-2-boat-bird-seed1.txt"):
        study.distil(Choice(("Boat", "Bird")), [0, 1, 2])
    assert [line[0] for line in lines] == ["teacher", "student", "student"]
    for line in lines:
        assert {"data.classes=[Boat,Bird]", "data.limit=60", "paradigm=independent", "model.path=here"} <= set(line)
    assert "name=2-boat-bird/seed0" in lines[1]
    assert f"runs={study.run}" in lines[1]
    study.evaluate(20)
    assert {f"runs={study.run.parent}", "name=independent", "limit=20"} <= set(lines[-1])
