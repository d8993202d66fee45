import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from synthetic import PROMPTER, generation, questions, write_run

from sekd.errors import SekdError
from sekd.evaluation.generations import Cell, discard, kept_samples, read_cell, write_part
from sekd.evaluation.scores import Bootstrap, Kept, difference, interval, paths, read_run, recovered, score_run
from sekd.evaluation.table import sentence
from sekd.metrics import METRICS, score

QUICK = Bootstrap(resamples=200)


def demo(run: Path) -> dict:
    return score_run(read_run(run), bootstrap=QUICK)


def tamper(part: Path, row: int, text: str) -> None:
    table = pq.read_table(part)
    texts = table.column("texts").to_pylist()
    texts[row] = [text]
    column = table.schema.get_field_index("texts")
    pq.write_table(table.set_column(column, table.schema.field(column), [texts]), part)


def test_scores_equal_the_metrics_on_the_kept_generations(tmp_path: Path) -> None:
    write_run(tmp_path, seeds=1, images=False)
    scores = demo(tmp_path)
    for kept in read_run(tmp_path):
        cell = scores["in_domain"] if kept.cell.part == "in_domain" else scores["unseen"][kept.cell.tree]
        expected = score(*paths(kept))
        for name in METRICS:
            assert cell[kept.cell.model][kept.cell.paradigm][name] == pytest.approx(expected[name])


def test_a_changed_word_in_a_kept_generation_changes_the_score(tmp_path: Path) -> None:
    write_run(tmp_path, seeds=1, images=False)
    before = demo(tmp_path)["in_domain"]["student"]["joint"]
    kept = next(each for each in read_run(tmp_path) if each.cell.model == "student")
    part = tmp_path / "generations" / kept.cell.folder / "part-00000.parquet"
    first = pq.read_table(part).column("sample")[0].as_py()
    row = next(i for i, each in enumerate(kept.generations) if each.sample == first)
    right = kept.answers[row] == [question.truth for question in kept.generations[row].questions]
    asked = kept.generations[row].questions
    opposite = [(q.truth + 1) % 4 if right else q.truth for q in asked]  # type: ignore[operator]
    tamper(part, 0, PROMPTER.joint_answer(asked, opposite)[0])
    after = demo(tmp_path)["in_domain"]["student"]["joint"]
    assert after["hca"] == pytest.approx(before["hca"] + (-1 if right else 1) * 100 / 60)
    tamper(part, 0, "no idea")
    assert demo(tmp_path)["in_domain"]["student"]["joint"]["parse_failures"] == pytest.approx(100 / 60)


def test_scores_have_the_promised_shape_and_are_json(tmp_path: Path) -> None:
    write_run(tmp_path, images=False)
    scores = demo(tmp_path)
    assert set(scores) == {"in_domain", "unseen"}
    assert set(scores["in_domain"]["base"]) == {"joint", "independent", "conditioned"}
    assert set(scores["in_domain"]["student"]) == {"joint"}
    assert set(scores["unseen"]) == {"demo_moth"}
    cell = scores["unseen"]["demo_moth"]["student"]["joint"]
    assert {"n", "hca", "leaf", "por", "s_por", "tor", "parse_failures"} <= set(cell)
    json.dumps(scores, allow_nan=False)


def test_several_trainings_are_averaged_and_their_spread_is_told(tmp_path: Path) -> None:
    write_run(tmp_path, seeds=3, images=False)
    cell = demo(tmp_path)["in_domain"]["student"]["joint"]
    values = [seed["hca"] for seed in cell["seeds"].values()]
    assert len(values) == 3
    assert cell["hca"] == pytest.approx(np.mean(values))
    assert cell["spread"]["hca"] == pytest.approx(np.std(values, ddof=1))
    low, high = cell["intervals"]["hca"]
    assert low <= cell["hca"] <= high


def test_parse_failures_stand_beside_the_score_and_count_as_wrong(tmp_path: Path) -> None:
    write_run(tmp_path, seeds=1, images=False)
    cell = demo(tmp_path)["in_domain"]["base"]["joint"]
    assert cell["parse_failures"] == pytest.approx(10)
    assert demo(tmp_path)["in_domain"]["base"]["conditioned"]["parse_failures"] == 0


def test_a_dataset_without_truth_has_no_scores_but_its_parse_failures(tmp_path: Path) -> None:
    write_run(tmp_path, known=False, images=False)
    scores = demo(tmp_path)
    cell = scores["in_domain"]["base"]["joint"]
    assert cell["n"] == 0
    assert cell["hca"] is None
    assert cell["parse_failures"] == pytest.approx(10)
    assert "nothing to score" in sentence(scores)


def test_other_students_are_told_apart_from_the_main_one_by_paired_differences(tmp_path: Path) -> None:
    write_run(tmp_path, students=("student", "hard"))
    kept = read_run(tmp_path)
    models = score_run(kept, bootstrap=QUICK)["in_domain"]
    contrast = models["hard"]["joint"]["minus_student"]["hca"]
    assert contrast["value"] == pytest.approx(models["hard"]["joint"]["hca"] - models["student"]["joint"]["hca"])
    assert contrast["low"] < contrast["value"] < contrast["high"]
    assert "minus_student" not in models["student"]["joint"]


def test_the_sentence_is_made_of_the_scores(tmp_path: Path) -> None:
    write_run(tmp_path, seeds=1, images=False)
    scores = demo(tmp_path)
    cell, base = scores["in_domain"]["student"]["joint"], scores["in_domain"]["base"]
    told = sentence(scores)
    for value in (cell["hca"], base["joint"]["hca"], base["conditioned"]["hca"]):
        assert f"{value:.1f} %" in told
    assert f"{cell['gap_recovered']['value']:.0f} % [" in told
    assert "demo_moth" in told


def test_a_student_that_gains_nothing_is_not_praised(tmp_path: Path) -> None:
    write_run(tmp_path, seeds=1, images=False)
    base = next(kept for kept in read_run(tmp_path) if (kept.cell.model, kept.cell.paradigm) == ("base", "joint"))
    same = Cell(**{**vars(base.cell), "model": "student"})
    discard(tmp_path / "generations" / same.folder)
    write_part(tmp_path / "generations" / same.folder, same, base.generations)
    assert "no clear change from" in sentence(demo(tmp_path))


def test_an_interval_covers_the_truth_at_its_rate() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(300):
        values = 100.0 * (rng.random(120) < 0.7)
        low, high = interval(values, Bootstrap(resamples=400, seed=seed)) or (0, 0)
        covered += low <= 70 <= high
    assert 0.91 <= covered / 300 <= 0.98


def test_a_paired_difference_is_narrower_than_the_two_intervals_and_covers_its_truth() -> None:
    rng = np.random.default_rng(1)
    covered, widths = 0, []
    for seed in range(300):
        hard = rng.random(150)
        first, second = 100.0 * (hard < 0.5), 100.0 * (hard < 0.6)  # the same images are hard for both
        found = difference(first, second, Bootstrap(resamples=400, seed=seed))
        assert found is not None
        covered += found["low"] <= 10 <= found["high"]
        widths.append(found["high"] - found["low"])
    assert 0.91 <= covered / 300 <= 0.98
    assert np.mean(widths) < 2 * 1.96 * 100 * np.sqrt(2 * 0.25 / 150)


def test_the_recovered_gap_covers_its_truth_and_needs_a_gap() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for seed in range(200):
        hard = rng.random(400)
        joint, student, teacher = (100.0 * (hard < rate) for rate in (0.1, 0.82, 0.9))
        found = recovered(student, joint, teacher, Bootstrap(resamples=300, seed=seed))
        assert found is not None
        covered += found["low"] <= 90 <= found["high"]
    assert 0.90 <= covered / 200 <= 0.99
    assert recovered(student, teacher, joint, QUICK) is None


def test_a_run_without_evaluation_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SekdError, match=re.escape("make evaluate")):
        read_run(tmp_path)


def test_generations_survive_the_disk_and_pair_up_by_sample(tmp_path: Path) -> None:
    (cell, *_) = write_run(tmp_path / "run", seeds=1, images=False)
    asked = questions(np.random.default_rng(0), known=False)
    rows = [generation(sample, asked, [0, 1, 2, 3], paradigm="joint") for sample in ("b", "a")]
    write_part(tmp_path / "cell", cell, rows)
    found, generations = read_cell(tmp_path / "cell")
    assert found == cell
    assert [each.sample for each in generations] == ["a", "b"]
    assert generations[1].questions == asked
    assert generations[1].texts == rows[0].texts
    np.testing.assert_allclose(generations[1].letter_logprobs, rows[0].letter_logprobs, rtol=1e-6)


def test_a_cell_of_another_digest_is_not_kept(tmp_path: Path) -> None:
    (cell, *_) = write_run(tmp_path / "run", seeds=1, images=False)
    folder = tmp_path / "run" / "generations" / cell.folder
    assert len(kept_samples(folder, cell.digest) or ()) == 60
    assert kept_samples(folder, "other") is None
    assert kept_samples(tmp_path / "nowhere", "other") == set()


def test_a_file_that_is_no_part_is_named(tmp_path: Path) -> None:
    (cell, *_) = write_run(tmp_path, seeds=1, images=False)
    part = tmp_path / "generations" / cell.folder / "part-00000.parquet"
    part.write_bytes(b"rubbish")
    with pytest.raises(SekdError, match="part-00000"):
        Kept.read(part.parent)
