import itertools
import json
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import LEVELS, PROMPTER, generation, questions, write_run

from sekd.errors import SekdError
from sekd.evaluation import rescore
from sekd.evaluation.generations import Generation, kept_keys, list_cells, read_cell, write_part
from sekd.evaluation.scores import (
    Bootstrap,
    difference,
    interval,
    paths,
    read_run,
    recovered,
    score_run,
)
from sekd.evaluation.table import sentence
from sekd.metrics import METRICS, resampled_sums, score
from sekd.questions import build_questions
from sekd.taxonomy import Taxonomy

QUICK = Bootstrap(resamples=200)


def demo(run: Path) -> dict:
    return score_run(read_run(run), bootstrap=QUICK)


def first_part(folder: Path) -> Path:
    return min(folder.glob("part-*.parquet"))


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


def test_treecut_accuracy_and_invalid_edges_equal_a_count_over_the_cuts_and_leaves_of_the_kept_tree(
    tmp_path: Path,
) -> None:
    cells = write_run(tmp_path, trees=("demo",), images=False)
    before = demo(tmp_path)
    leaves = [("A", *path) for path in itertools.product(*([f"{level} {i}" for i in range(4)] for level in LEVELS))]
    tree = Taxonomy([*leaves, ("A", "order 5", "family 5")], skip=1, level_names=["kingdom", *LEVELS])
    list_cells(tmp_path, cells, {"demo": [f"s{i:04d}" for i in range(60)]}, {"demo": tree})
    scores = demo(tmp_path)["in_domain"]
    edges = {(depth, *pair) for leaf in tree.leaves for depth, pair in enumerate(itertools.pairwise(leaf))}
    found = {}
    for kept in read_run(tmp_path):
        truth, predicted = paths(kept)
        cuts = [next((d for d, cut in enumerate(c, 1) if cut), 4) for c in itertools.product([False, True], repeat=3)]
        right = [np.mean([p[:d] == t[:d] for d in cuts]) for t, p in zip(truth, predicted, strict=True)]
        asked = [(d, *pair) for p in predicted for d, pair in enumerate(itertools.pairwise(p), 1) if None not in pair]
        invalid = [edge not in edges for edge in asked]
        assert 0 < np.mean(invalid) < 1
        found[kept.cell.model, kept.cell.paradigm, kept.cell.seed] = 100 * np.mean(right), 100 * np.mean(invalid)
    for way in ("joint", "independent", "conditioned"):
        each = scores["base"][way]
        assert (each["mta"], each["invalid_edges"]) == pytest.approx(found["base", way, ""])
    student = scores["student"]["joint"]
    trainings = [found["student", "joint", seed] for seed in ("seed0", "seed1")]
    assert (student["mta"], student["invalid_edges"]) == pytest.approx(np.mean(trainings, 0))
    spread = student["spread"]
    assert (spread["mta"], spread["invalid_edges"]) == pytest.approx(np.std(trainings, 0, ddof=1))
    # Without a tree, as after an evaluation by an earlier version, all else is the same.
    for cell in (*scores["base"].values(), student, *student["seeds"].values()):
        cell["invalid_edges"] = None
    spread["invalid_edges"] = None
    assert scores == before["in_domain"]


def test_a_changed_word_in_a_kept_generation_changes_the_score(tmp_path: Path) -> None:
    write_run(tmp_path, seeds=1, images=False)
    before = demo(tmp_path)["in_domain"]["student"]["joint"]
    kept = next(each for each in read_run(tmp_path) if each.cell.model == "student")
    part = first_part(tmp_path / "generations" / kept.cell.folder)
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


def test_levels_costs_and_partly_known_images_are_as_counted_by_hand(tmp_path: Path) -> None:
    (cell, *_) = write_run(tmp_path, n=20, seeds=1, trees=("demo",), images=False)
    conditioned = replace(cell, paradigm="conditioned", digest="by hand")
    asked = [replace(question, truth=0) for question in questions(np.random.default_rng(0))]
    partly = (*asked[:3], replace(asked[3], truth=None))
    rows = [
        generation("a", asked, [0, 1, 0, 0], paradigm="conditioned"),
        generation("b", asked, [0, 0, 0, 1], paradigm="conditioned"),
        generation("c", partly, [1, 1, 1, 1], paradigm="conditioned"),
    ]
    write_part(tmp_path / "generations" / conditioned.folder, conditioned, rows)
    list_cells(tmp_path, [conditioned], {"demo": ["a", "b", "c"]})
    found = demo(tmp_path)["in_domain"]["base"]["conditioned"]
    assert (found["n"], found["prompt_tokens"], found["calls"]) == (2, 480, 4)
    assert [level["accuracy"] for level in found["per_level"]] == [100, 50, 100, 50]
    third = found["per_level"][2]
    assert third["given_right_parent"] == {"accuracy": 100, "n": 1}
    assert found["per_level"][3]["given_right_parent"] == {"accuracy": 50, "n": 2}
    assert found["per_level"][3]["given_wrong_parent"] == {"accuracy": None, "n": 0}


def test_an_image_counts_at_the_levels_that_it_was_asked_about(tmp_path: Path) -> None:
    (cell, *_) = write_run(tmp_path, n=20, seeds=1, trees=("demo",), images=False)
    leaves = [("Fauna", phylum, f"{phylum}{one}") for phylum in "pq" for one in "xy"] + [("Flora", "r", "rx")]
    tree = Taxonomy([*leaves, ("Flora", "r", "ry")], skip=1, level_names=["kingdom", "phylum", "class"])

    def row(sample: str, leaf: int, *right: bool) -> Generation:
        asked = build_questions(sample_id=sample, path=leaves[leaf], taxonomy=tree, seed=0)
        truth = zip(asked, right, strict=True)  # Flora has one phylum, so its images are asked about the class alone
        answers = [q.truth if is_right else (q.truth + 1) % len(q.options) for q, is_right in truth]  # type: ignore[operator]
        return generation(sample, asked, answers, paradigm="joint")

    joint = replace(cell, digest="by hand")
    rows = [row("a", 0, True, True), row("b", 1, True, False), row("c", 2, False, False), row("d", -1, True)]
    write_part(tmp_path / "generations" / joint.folder, joint, rows)
    list_cells(tmp_path, [joint], {"demo": ["a", "b", "c", "d"]})
    nothing = {"accuracy": None, "n": 0}
    assert demo(tmp_path)["in_domain"]["base"]["joint"]["per_level"] == [
        {"level": "phylum", "accuracy": pytest.approx(200 / 3), "n": 3}
        | {"given_right_parent": nothing, "given_wrong_parent": nothing},
        {"level": "class", "accuracy": 50, "n": 4}
        | {"given_right_parent": {"accuracy": 50, "n": 2}, "given_wrong_parent": {"accuracy": 0, "n": 1}},
    ]


def test_models_asked_about_different_images_are_not_compared(tmp_path: Path) -> None:
    cells = write_run(tmp_path, n=20, seeds=1, trees=("demo",), images=False)
    student = cells[-1]
    _, generations = read_cell(tmp_path / "generations" / student.folder)
    fewer = replace(student, digest="fewer")
    write_part(tmp_path / "generations" / fewer.folder, fewer, generations[1:])
    list_cells(tmp_path, [*cells[:-1], fewer], {"demo": [each.key for each in generations]})
    assert demo(tmp_path)["in_domain"]["student"]["joint"]["differences"] == {}


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
    assert cell["mta"] is None
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


def test_the_base_is_called_alone_only_where_no_student_was_asked(tmp_path: Path) -> None:
    cells = write_run(tmp_path, trees=("demo",), students=("hard", "soft"), images=False)
    told = sentence(demo(tmp_path))
    assert told.startswith("The base, in-domain: ")
    assert "No student" not in told
    list_cells(tmp_path, [cell for cell in cells if cell.model == "base"], {"demo": [f"s{i:04d}" for i in range(60)]})
    assert sentence(demo(tmp_path)).startswith("No student to compare yet; the base alone, in-domain: ")


def test_a_student_that_gains_nothing_is_not_praised(tmp_path: Path) -> None:
    cells = write_run(tmp_path, seeds=1, trees=("demo",), images=False)
    base = next(kept for kept in read_run(tmp_path) if (kept.cell.model, kept.cell.paradigm) == ("base", "joint"))
    same = replace(base.cell, model="student", digest="same as the base")
    write_part(tmp_path / "generations" / same.folder, same, base.generations)
    others = [cell for cell in cells if cell.model == "base"]
    list_cells(tmp_path, [*others, same], {"demo": [each.key for each in base.generations]})
    assert "no clear change from" in sentence(demo(tmp_path))


def test_scores_need_a_resample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("sys.argv", ["rescore", str(tmp_path), "--resamples", "0"])
    with pytest.raises(SystemExit):
        rescore.main()
    assert "resamples=0: expected at least 1" in capsys.readouterr().err


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


def test_resamples_without_a_gap_are_counted_and_told(tmp_path: Path) -> None:
    joint, teacher = np.zeros(8), np.array([100.0, *[0.0] * 7])
    bootstrap = Bootstrap(resamples=1000)
    found = recovered(teacher, joint, teacher, bootstrap)
    assert found is not None
    # The one image that makes the gap is drawn by none of 8 draws with probability (7 / 8) ** 8.
    assert found["without_gap"] / 1000 == pytest.approx((7 / 8) ** 8, abs=0.05)
    assert (found["low"], found["high"]) == (100, 100)
    write_run(tmp_path, seeds=1, images=False)
    scores = demo(tmp_path)
    assert scores["in_domain"]["student"]["joint"]["gap_recovered"]["without_gap"] == 0
    assert "without a gap" not in sentence(scores)
    scores["in_domain"]["student"]["joint"]["gap_recovered"]["without_gap"] = 3
    assert "3 resamples without a gap" in sentence(scores)


def test_many_images_are_resampled_in_bounded_memory_to_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((1000, 2))
    at_once = resampled_sums(values, np.ones(1000), resamples=300, seed=0)
    expected = np.random.default_rng(0).multinomial(1000, np.full(1000, 1 / 1000), size=300) @ values
    np.testing.assert_allclose(at_once, expected)
    monkeypatch.setattr("sekd.metrics.AT_ONCE", 50_000)
    tracemalloc.start()
    bounded = resampled_sums(values, np.ones(1000), resamples=300, seed=0)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_allclose(bounded, expected)
    assert most < 4 * 8 * 50_000, "numbers in memory: the counts, and what their product makes of them"


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


def test_a_part_never_takes_the_name_of_another_whatever_was_removed(tmp_path: Path) -> None:
    (cell, *_) = write_run(tmp_path / "run", seeds=1, images=False)
    asked = questions(np.random.default_rng(0))
    for sample in "abc":
        write_part(tmp_path / "cell", cell, [generation(sample, asked, [0, 1, 2, 3], paradigm="joint")])
    first_part(tmp_path / "cell").unlink()
    write_part(tmp_path / "cell", cell, [generation("d", asked, [0, 1, 2, 3], paradigm="joint")])
    assert kept_keys(tmp_path / "cell") == {"b", "c", "d"}
    assert kept_keys(tmp_path / "nowhere") == set()


def test_an_evaluation_reads_its_own_keys_once_each_and_where_its_data_lies_now(tmp_path: Path) -> None:
    (cell, *_) = write_run(tmp_path, seeds=1, trees=("demo",), n=10, images=False)
    folder = tmp_path / "generations" / cell.folder
    _, generations = read_cell(folder)
    write_part(folder, cell, generations[:3])  # kept twice, as by two evaluations at a time
    moved = replace(cell, root="elsewhere", part="unseen")
    list_cells(tmp_path, [moved], {"demo": ["s0001", "s0007"]})
    [found] = read_run(tmp_path)
    assert found.cell == moved
    assert [each.sample for each in found.generations] == ["s0001", "s0007"]


def test_a_file_that_is_no_part_is_named(tmp_path: Path) -> None:
    (cell, *_) = write_run(tmp_path, seeds=1, images=False)
    part = first_part(tmp_path / "generations" / cell.folder)
    part.write_bytes(b"rubbish")
    with pytest.raises(SekdError, match="part-00000"):
        read_cell(part.parent)
    pq.write_table(pa.table({"sample": ["a"]}), part)
    with pytest.raises(SekdError, match="part-00000"):
        read_cell(part.parent)
