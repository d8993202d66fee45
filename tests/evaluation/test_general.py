"""`make general` against a program that takes lmms-eval's arguments and writes its files."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sekd.errors import SekdError
from sekd.evaluation.general.__main__ import Harness, find_lmms_eval, main, run_benchmarks
from sekd.evaluation.general.outcome import compare, read_outcomes

SAMPLES = 200
# exact_match is the samples' mean, mmbench's own score is it in percent, MME's is no mean of its samples. As lmms-eval
# does, it writes other numbers beside each metric, and ends with status 0 when it fails.
FAKE = """
import argparse, json, pathlib, random, sys
parser = argparse.ArgumentParser()
for name in ("model", "model_args", "tasks", "batch_size", "output_path", "limit", "include_path"):
    parser.add_argument("--" + name)
parser.add_argument("--log_samples", action="store_true")
given = parser.parse_args()
folder = dict(part.split("=", 1) for part in given.model_args.split(","))["model"]
skill = json.loads((pathlib.Path(folder) / "config.json").read_text())["skill"]
if given.tasks == "unknown":
    print("Tasks not found", file=sys.stderr)
    raise SystemExit(0)
dict(part.split("=", 1) for part in f"output_path={given.output_path}".split(","))
out = pathlib.Path(given.output_path) / folder.replace("/", "__")
out.mkdir(parents=True, exist_ok=True)
count = int(given.limit or 200)
rows = []
for i in range(count):
    right = float(random.Random(i).random() < skill)
    rows.append({"doc_id": i, "target": "A\u2028B", "filtered_resps": ["A"], "exact_match": right,
                 "gpt_eval_score": {"index": i, "score": right}, "mme_score": {"category": "OCR", "score": right}})
mean = sum(row["exact_match"] for row in rows) / len(rows)
results = {"alias": given.tasks, "samples": count, " ": " ", "gpt_eval_score,none": 100 * mean,
           "gpt_eval_score_stderr,none": "N/A", "mme_score,none": 700 * mean + 3, "own_consistency_rate,none": mean}
for derived in ("", "_stderr", "_stderr_clt", "_stderr_clustered", "_expected_accuracy", "_consensus_accuracy",
                "_internal_variance", "_consistency_rate"):
    results[f"exact_match{derived},none"] = 0.01 if derived else mean
number = len(list(out.glob("*_results.json")))
counts = {given.tasks: {"original": 200, "effective": count}}
content = {"results": {given.tasks: results}, "n-samples": counts}
if given.tasks == "unscored":
    content["results"][given.tasks] = {"alias": given.tasks, "submission,none": None}
(out / f"2026010{number}_results.json").write_text(json.dumps(content))
if given.tasks == "cut_off":
    rows = rows[:-5]
lines = "".join(json.dumps(row, ensure_ascii=False) + "\\n" for row in rows)
(out / f"2026010{number}_samples_{given.tasks}.jsonl").write_text(lines)
if given.tasks == "crashing":
    raise SystemExit(134)
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "site" / "lmms_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(FAKE)
    write_version(package, "0.7.3")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    return package


def write_version(package: Path, version: str) -> None:
    info = package.parent / "lmms_eval-1.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lmms-eval\nVersion: {version}\n")


def harness(**settings: Any) -> Harness:
    return Harness(sys.executable, "0.7.3", **settings)


def results_of(run: Path, task: str, who: str) -> Path:
    (found,) = (run / "general" / task / who).rglob("*_results.json")
    return found


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
    found = {each.metric: each for each in run_benchmarks(run, "mmbench_en_dev", harness())}
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


def test_a_run_whose_name_has_commas_is_measured(installed: Path, run: Path) -> None:
    named = run.rename(run.with_name("lora.rank=8,optim.lr=0.1"))
    run_benchmarks(named, "mme", harness())
    assert results_of(named, "mme", "student").is_relative_to(named / "general")


def test_a_later_call_keeps_the_tasks_of_earlier_ones(installed: Path, run: Path) -> None:
    first, again = run_benchmarks(run, "mme", harness()), run_benchmarks(run, "mmmu_val", harness())
    assert read_outcomes(run) == first + again
    trial = run_benchmarks(run, "mme", harness(limit=10))
    assert trial != first
    assert read_outcomes(run) == again + trial


def test_a_score_that_is_no_mean_of_its_samples_has_no_interval(installed: Path, run: Path) -> None:
    found = {each.metric: each for each in run_benchmarks(run, "mme", harness())}
    assert (found["mme_score"].low, found["mme_score"].high, found["mme_score"].samples) == (None, None, None)
    assert found["mme_score"].difference < 0


def test_numbers_beside_a_metric_are_no_metrics(installed: Path, run: Path) -> None:
    found = {each.metric for each in run_benchmarks(run, "mme", harness())}
    assert found == {"exact_match", "gpt_eval_score", "mme_score", "own_consistency_rate"}


def test_samples_that_only_one_of_the_two_answered_make_no_pairs(installed: Path, run: Path) -> None:
    run_benchmarks(run, "mmmu_val", harness())
    base, student = (results_of(run, "mmmu_val", who) for who in ("base", "student"))
    (rows,) = student.parent.glob("*_samples_*.jsonl")
    rows.write_text(rows.read_text().replace('"doc_id": 7,', '"doc_id": 207,'))
    assert all(each.low is None for each in compare(base, student))


def test_what_was_asked_of_the_same_weights_is_not_asked_again(
    installed: Path, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    def kept(**settings: Any) -> int:
        capfd.readouterr()
        run_benchmarks(run, "mme", harness(**settings))
        return capfd.readouterr().out.count("kept already")

    first = run_benchmarks(run, "mme", harness())
    assert kept() == 2
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "questions.jsonl").write_text("{}")
    assert [kept(limit=10), kept(max_model_len=99), kept(include_path=tmp_path / "tasks")] == [0, 0, 0]
    (tmp_path / "tasks" / "questions.jsonl").write_text("{ }")
    assert kept(include_path=tmp_path / "tasks") == 0
    assert kept(batch_size=1) == 2, "the batch size does not change what is asked"
    assert run_benchmarks(run, "mme", harness()) == first, "a trial beside it takes nothing away"
    capfd.readouterr()
    run_benchmarks(run, "mme", Harness(sys.executable, "0.8.0"))
    assert "kept already" not in capfd.readouterr().out
    (run / "merged" / "model.safetensors").write_text("another student")
    assert kept() == 1


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("unknown", r"\(status 0\) wrote no results of task unknown.*--tasks list"),
        ("cut_off", r"no whole results file.*195 of 200 samples"),
        ("unscored", "holds no metric that is a number"),
    ],
)
def test_a_run_without_whole_results_is_an_error_each_time(installed: Path, run: Path, task: str, told: str) -> None:
    for _ in range(2):
        with pytest.raises(SekdError, match=told):
            run_benchmarks(run, task, harness())
    assert not list(run.rglob("asked.json"))


def test_earlier_results_are_none_of_a_run_that_fails(
    installed: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_benchmarks(run, "mme", harness())
    for note in run.rglob("asked.json"):
        note.unlink()
    (installed / "__main__.py").write_text("")
    with pytest.raises(SekdError, match="wrote no results of task mme"):
        run_benchmarks(run, "mme", harness())


def test_a_crash_after_whole_results_were_written_is_no_failure(installed: Path, run: Path) -> None:
    assert run_benchmarks(run, "crashing", harness())


def test_settings_become_arguments(installed: Path, run: Path, capfd: pytest.CaptureFixture) -> None:
    given = harness(max_model_len=4096, arguments="dtype=bfloat16", batch_size=32, include_path=installed)
    run_benchmarks(run, "mme", given)
    said = capfd.readouterr().out
    assert "merged,max_model_len=4096,dtype=bfloat16 " in said
    assert "--batch_size 32 " in said
    assert f"--include_path {installed}" in said
    run_benchmarks(run, "mme", harness())
    assert "--batch_size 64 " in capfd.readouterr().out


def test_the_command_takes_lmms_eval_as_it_is_installed(
    installed: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["general", str(run), "--tasks", "mme", "--limit", "50"])
    main()
    assert "mme_score" in capsys.readouterr().out
    notes = [json.loads(note.read_text()) for note in run.rglob("asked.json")]
    assert [(note["lmms_eval"], note["limit"]) for note in notes] == [("0.7.3", 50)] * 2


def test_without_lmms_eval_or_with_an_old_one_one_line_says_how_to_get_it(
    installed: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(run)
    monkeypatch.setattr(sys, "argv", ["general", str(run), "--tasks", "mme"])
    write_version(installed, "0.7.2")
    for fault in ("lmms-eval 0.7.2, which is too old", "lmms-eval is not installed"):
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert len(told) == 1
        assert fault in told[0]
        assert "pip install 'lmms-eval>=0.7.3'" in told[0]
        monkeypatch.delenv("PYTHONPATH", raising=False)


def test_an_environment_of_its_own_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    python = tmp_path / ".venv-general" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho 0.10.1\n")
    python.chmod(0o755)
    assert find_lmms_eval() == (str(Path(".venv-general/bin/python")), "0.10.1")


def test_what_is_missing_is_named(installed: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(SekdError, match="TASKS="):
        run_benchmarks(run, " ", harness())
    with pytest.raises(SekdError, match=r"python -m stage2_student.merge \S*/nowhere` makes it"):
        run_benchmarks(tmp_path / "nowhere", "mme", harness())
    run_benchmarks(run, "mme", harness())
    results = results_of(run, "mme", "base")
    results.write_text("{}")
    with pytest.raises(SekdError, match=r"_results.json is no whole results file.*remove it"):
        run_benchmarks(run, "mme", harness())
    results.unlink()
    assert run_benchmarks(run, "mme", harness())
