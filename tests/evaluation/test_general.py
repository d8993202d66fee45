"""`make general` against a program that takes lmms-eval's arguments and writes its files."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from sekd.errors import SekdError
from sekd.evaluation.general import harness as harness_module
from sekd.evaluation.general.__main__ import main, run_benchmarks
from sekd.evaluation.general.harness import Harness, find_python
from sekd.evaluation.general.outcome import compare, read_outcomes

SAMPLES = 200
# exact_match is the samples' mean, mmbench's own score is it in percent, MME's is no mean of its samples.
FAKE = """
import argparse, json, pathlib, random, zlib
parser = argparse.ArgumentParser()
for name in ("model", "model_args", "tasks", "batch_size", "output_path", "limit"):
    parser.add_argument("--" + name)
parser.add_argument("--log_samples", action="store_true")
given = parser.parse_args()
folder = dict(part.split("=", 1) for part in given.model_args.split(","))["model"]
skill = json.loads((pathlib.Path(folder) / "config.json").read_text())["skill"]
if given.tasks == "broken":
    raise SystemExit("no such task")
out = pathlib.Path(given.output_path) / folder.replace("/", "__")
out.mkdir(parents=True, exist_ok=True)
rows = []
for i in range(int(given.limit or 200)):
    right = float(random.Random(i).random() < skill)
    rows.append({"doc_id": i, "target": "A", "filtered_resps": ["A"], "exact_match": right,
                 "gpt_eval_score": {"index": i, "score": right}, "mme_score": {"category": "OCR", "score": right}})
mean = sum(row["exact_match"] for row in rows) / len(rows)
results = {given.tasks: {"alias": given.tasks, "exact_match,none": mean, "exact_match_stderr,none": 0.01,
                         "gpt_eval_score,none": 100 * mean, "gpt_eval_score_stderr,none": "N/A",
                         "mme_score,none": 700 * mean + 3}}
date = "20260101_101010"
(out / f"{date}_results.json").write_text(json.dumps({"results": results, "n-samples": {}, "versions": {}}))
(out / f"{date}_samples_{given.tasks}.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "site" / "lmms_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(FAKE)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    return package


def model(folder: Path, skill: float) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"skill": skill}))
    (folder / "model.safetensors").write_text(str(skill))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    model(tmp_path / "run" / "merged", 0.6)
    base = {"name": "base", "path": str(model(tmp_path / "base", 0.7)), "wording": "terse"}
    (tmp_path / "run" / "config.yaml").write_text(json.dumps({"model": base}))
    return tmp_path / "run"


def test_base_and_student_are_compared_with_paired_intervals(installed: Path, run: Path) -> None:
    found = {each.metric: each for each in run_benchmarks(run, "mmbench_en_dev", Harness(sys.executable))}
    drawn = np.array([__import__("random").Random(i).random() for i in range(SAMPLES)])
    expected = np.mean(drawn < 0.6) - np.mean(drawn < 0.7)
    assert found["exact_match"].difference == pytest.approx(expected)
    low, high = found["exact_match"].low, found["exact_match"].high
    assert low is not None
    assert high is not None
    assert low < expected < high < 0
    percent = found["gpt_eval_score"]
    assert (percent.low, percent.high) == (pytest.approx(100 * low), pytest.approx(100 * high))
    assert percent.samples == SAMPLES
    assert read_outcomes(run) == list(found.values())


def test_a_score_that_is_no_mean_of_its_samples_has_no_interval(installed: Path, run: Path) -> None:
    found = {each.metric: each for each in run_benchmarks(run, "mme", Harness(sys.executable))}
    assert (found["mme_score"].low, found["mme_score"].high, found["mme_score"].samples) == (None, None, None)
    assert found["mme_score"].difference < 0


def test_samples_that_only_one_of_the_two_answered_make_no_pairs(installed: Path, run: Path) -> None:
    run_benchmarks(run, "mmmu_val", Harness(sys.executable))
    (rows,) = (run / "general" / "mmmu_val" / "student").rglob("*_samples_*.jsonl")
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:-5]))
    found = compare(run / "general" / "mmmu_val" / "base", run / "general" / "mmmu_val" / "student")
    assert all(each.low is None for each in found)


def test_what_was_asked_of_the_same_weights_is_not_asked_again(
    installed: Path, run: Path, capfd: pytest.CaptureFixture
) -> None:
    first = run_benchmarks(run, "mme", Harness(sys.executable))
    capfd.readouterr()
    assert run_benchmarks(run, "mme", Harness(sys.executable)) == first
    assert capfd.readouterr().out.count("kept already") == 2
    (run / "merged" / "model.safetensors").write_text("another student")
    run_benchmarks(run, "mme", Harness(sys.executable))
    assert capfd.readouterr().out.count("kept already") == 1
    run_benchmarks(run, "mme", Harness(sys.executable, limit=10))
    assert "kept already" not in capfd.readouterr().out


def test_without_lmms_eval_one_line_says_how_to_get_it(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(harness_module.importlib.util, "find_spec", lambda _: None)
    monkeypatch.chdir(run)
    monkeypatch.setattr(sys, "argv", ["general", str(run), "--tasks", "mme"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert "pip install lmms-eval" in told[0]


def test_an_environment_of_its_own_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness_module.importlib.util, "find_spec", lambda _: None)
    monkeypatch.chdir(tmp_path)
    python = tmp_path / ".venv-general" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n[ "$2" = "import lmms_eval" ]\n')
    python.chmod(0o755)
    assert find_python() == str(Path(".venv-general/bin/python"))
    python.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(SekdError, match="not installed"):
        find_python()


def test_what_is_missing_is_named(installed: Path, run: Path, tmp_path: Path) -> None:
    harness = Harness(sys.executable)
    with pytest.raises(SekdError, match="TASKS="):
        run_benchmarks(run, " ", harness)
    with pytest.raises(SekdError, match="ended with status 1 on task broken"):
        run_benchmarks(run, "broken", harness)
    with pytest.raises(SekdError, match="make merge RUN=nowhere"):
        run_benchmarks(tmp_path / "nowhere", "mme", harness)
    with pytest.raises(SekdError, match=r"no \*_results.json"):
        compare(tmp_path, run)
    run_benchmarks(run, "mme", harness)
    (results,) = (run / "general" / "mme" / "base").rglob("*_results.json")
    results.write_text("{}")
    with pytest.raises(SekdError, match=r"_results.json is no results file"):
        compare(results.parent, run / "general" / "mme" / "student")
