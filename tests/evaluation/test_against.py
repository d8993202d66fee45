"""Two runs on one page: paired differences, the settings that differ, and what is not in both."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from synthetic import write_run

from sekd.errors import SekdError
from sekd.evaluation.generations import list_cells, read_listed, write_part
from sekd.evaluation.report.against import write_comparison
from sekd.evaluation.rescore import read_scores, write_scores
from sekd.evaluation.scores import Bootstrap, image_scores, read_run
from sekd.evaluation.table import sentence
from sekd.metrics import METRICS, paired_difference

QUICK = Bootstrap(resamples=200)
READ = "Replies were read by the benchmark parser."


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs of which the second lacks a tree and ten images, and asked one image other questions."""
    first, second = tmp_path / "first", tmp_path / "second"
    write_run(first, images=False)
    write_run(tmp_path / "whole", images=False, trees=("demo",), seeds=1)
    cells = []
    for number, result in enumerate(read_run(tmp_path / "whole")):
        cell = replace(result.cell, digest=f"{100 + number:016x}")
        rows = sorted(result.generations[5:], key=lambda row: row.sample, reverse=True)
        turned = tuple(replace(question, options=question.options[::-1]) for question in rows[0].questions)
        write_part(second / "generations" / cell.folder, cell, [replace(rows[0], questions=turned), *rows[1:]])
        cells.append(cell)
    keys = [row.key for row in rows]
    list_cells(second, cells, {"demo": keys}, {})
    for run, rate in ((first, 1.0), (second, 2.0)):
        for seed in ("seed0", "seed1"):
            (run / seed / "adapter").mkdir(parents=True)
            (run / seed / "adapter/adapter_config.json").write_text("{}")
            settings = {"name": run.name, "seed": 0, "optim": {"lr": rate, "epochs": 1}}
            (run / seed / "config.yaml").write_text(yaml.safe_dump(settings))
    return first, second


def test_differences_are_paired_over_the_images_asked_the_same_in_both(runs: tuple[Path, Path]) -> None:
    page, text = write_comparison(*runs, bootstrap=QUICK)
    shown = text.read_text()
    named = [
        {each.cell.paradigm: each for each in read_run(run) if (each.cell.model, each.cell.tree) == ("base", "demo")}
        for run in runs
    ]
    shared = {row.sample for row in named[1]["joint"].generations} - {named[1]["joint"].generations[-1].sample}
    assert len(shared) == 54
    for paradigm in named[0]:
        columns = []
        for run in named:
            pairs = zip(run[paradigm].generations, run[paradigm].answers, strict=True)
            kept = sorted((row.sample, i) for i, (row, _) in enumerate(pairs) if row.sample in shared)
            one = replace(
                run[paradigm],
                generations=[run[paradigm].generations[i] for _, i in kept],
                answers=[run[paradigm].answers[i] for _, i in kept],
            )
            columns.append(image_scores([one]))
        for metric in METRICS:
            ours, theirs = (column[metric] for column in columns)
            found = paired_difference(theirs, ours, resamples=200, seed=0)
            numbers = [54, float(np.mean(ours)), float(np.mean(theirs)), *found.values()]
            row = " | ".join(f"{each:.1f}" if isinstance(each, float) else str(each) for each in numbers)
            assert f" | {row} |".replace("-", "−") in shown, (paradigm, metric)
    assert page.read_text().count('<svg class="plot"') == 2


def test_settings_that_differ_are_told_and_what_is_in_one_run_only(runs: tuple[Path, Path]) -> None:
    text = write_comparison(*runs, bootstrap=QUICK)[1].read_text()
    assert "| student | optim.lr | 1.0 | 2.0 |" in text
    assert not re.search(r"optim\.epochs|\| name \|", text)
    assert re.search(r"Not in both runs, and left out: .*on demo_moth", text)


def test_runs_with_nothing_in_common_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a", images=False, trees=("demo",), n=4)
    write_run(tmp_path / "b", images=False, trees=("demo_moth",), n=4)
    with pytest.raises(SekdError, match="have no image in common"):
        write_comparison(tmp_path / "a", tmp_path / "b")
    assert not [*tmp_path.glob("*/against*")]
    assert read_listed(tmp_path / "a")


def test_replies_are_read_by_the_parser_of_both_runs_scores(
    runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    parsers: list[str] = []
    monkeypatch.setattr(
        "sekd.evaluation.report.against.read_run",
        lambda run, *, parser: parsers.append(parser) or read_run(run, parser=parser),
    )
    first, second = runs
    _, text = write_comparison(first, second, bootstrap=QUICK)
    assert READ not in text.read_text()
    write_scores(first, bootstrap=QUICK, parser="benchmark")
    again = f"rescore {re.escape(str(second))} --parser benchmark"
    with pytest.raises(SekdError, match=rf"first was scored with the benchmark parser and \S+second .*{again}"):
        write_comparison(first, second, bootstrap=QUICK)
    write_scores(second, bootstrap=QUICK, parser="benchmark")
    write_comparison(first, second, bootstrap=QUICK)
    assert READ in text.read_text()
    assert parsers == ["lenient", "lenient", "benchmark", "benchmark"]


def test_the_report_names_the_parser_that_is_not_the_usual_one(runs: tuple[Path, Path]) -> None:
    for parser in ("lenient", "benchmark"):
        write_scores(runs[0], bootstrap=QUICK, parser=parser)  # type: ignore[arg-type]
        assert (READ in sentence(read_scores(runs[0]))) == (parser == "benchmark")
