"""Passes without labels: the teacher finds each image's path itself, and asks about that."""

import json
import math
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from teacher_passes import contents

from sekd.errors import SekdError
from sekd.inference.strategies import Subject
from sekd.store import Store
from sekd.store.verify import verify
from stage1_teacher.config import Teacher, TeacherConfig
from stage1_teacher.generate import prepare, run
from stage1_teacher.worker import TeacherWorker

pytestmark = pytest.mark.usefixtures("lent")


def by_descent(config: TeacherConfig, **data: object) -> TeacherConfig:
    return replace(config, data=replace(config.data, **{"questions": "descent", "beam": 2} | data))  # type: ignore[arg-type]


@pytest.fixture
def unlabelled(world: Path, tmp_path: Path) -> Path:
    """The world's images and tree, with every label deleted from its file."""
    root = Path(shutil.copytree(world, tmp_path / "unlabelled"))
    table = json.loads((root / "train_mini.json").read_text())
    (root / "train_mini.json").write_text(json.dumps(table | {"annotations": []}))
    return root


def rows(store: Store) -> list[dict]:
    return pa.concat_tables(store.read_targets(index) for index in range(store.plan.n_shards)).to_pylist()


def test_the_bytes_of_a_store_are_the_same_with_the_labels_deleted(
    config: TeacherConfig, unlabelled: Path, tmp_path: Path
) -> None:
    labelled = run(by_descent(config))
    blind = by_descent(replace(config, artifacts=str(tmp_path / "blind")), root=str(unlabelled))
    assert contents(run(blind).path) == contents(labelled.path)
    assert verify(labelled) == []


def test_the_questions_are_about_the_path_found_and_hold_no_truth(config: TeacherConfig, worker: TeacherWorker) -> None:
    job = prepare(by_descent(config))
    stored = rows(run(job.config))
    assert len(stored) == 18 * 4
    assert {row["truth"] for row in stored} == {-1}
    for example in job.dataset.examples[:5]:
        own = [row for row in stored if row["sample"] == example.id]
        about, tree = Subject.of(job.dataset, example), job.dataset.taxonomy
        descent = worker._strategies.descend(about, tree, roots=job.dataset.roots, options=4, beam=2)
        (found,) = worker._engine.drive([descent])
        path = found.paths[0]
        asked = job.dataset.questions_on(example, path.node)
        assert [row["options"] for row in own] == [list(question.options) for question in asked]
        assert [row["path_logprob"] for row in own] == pytest.approx(path.logprobs, abs=1e-4)


def test_a_path_ends_where_it_is_not_sure_enough_and_an_image_outside_the_tree_is_left_out(
    config: TeacherConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = {row["sample"]: row for row in rows(run(by_descent(config))) if row["step"] == row["n_steps"] - 1}
    probabilities = sorted(math.exp(row["path_logprob"]) for row in whole.values())
    middle = max(pairwise(probabilities), key=lambda pair: pair[1] - pair[0])
    stop = sum(middle) / 2  # in the widest gap, so that no rounding matters
    store = run(by_descent(config, stop=stop))
    kept = rows(store)

    assert all(math.exp(row["path_logprob"]) >= stop for row in kept)
    lengths = {row["sample"]: row["n_steps"] for row in kept}
    assert {sample for sample, n in lengths.items() if n == 4} == {
        sample for sample, row in whole.items() if math.exp(row["path_logprob"]) >= stop
    }
    nowhere = run(by_descent(config, stop=0.9999))
    skipped = [reason for index in range(nowhere.plan.n_shards) for reason in nowhere.entry(index).skipped.values()]
    assert skipped
    assert all(reason.startswith("outside the tree: the first answer has a probability of") for reason in skipped)
    assert f"{len(skipped)} images are outside the tree" in " ".join(capfd.readouterr().err.split())
    assert verify(nowhere) == []


@pytest.mark.parametrize("paradigm", ["independent", "joint", "shuffled"])
def test_the_controls_ask_about_the_path_found_too(config: TeacherConfig, paradigm: str) -> None:
    method, control = (rows(run(replace(by_descent(config), paradigm=name))) for name in ("conditioned", paradigm))
    assert [row["options"] for row in control] == [row["options"] for row in method]


def test_a_pass_that_needs_labels_is_refused_and_so_is_one_that_cannot_see_all_letters(config: TeacherConfig) -> None:
    with pytest.raises(SekdError, match=r"paradigm=truth needs labels, and data\.questions=descent reads none"):
        prepare(replace(by_descent(config), paradigm="truth"))
    with pytest.raises(SekdError, match="topk=3: a descent needs the probabilities of 4 options"):
        prepare(replace(by_descent(config), topk=3))


def test_no_label_chooses_an_image(config: TeacherConfig, unlabelled: Path) -> None:
    below_flora = by_descent(config, within={"kingdom": ["Flora"]})
    blind = by_descent(config, within={"kingdom": ["Flora"]}, root=str(unlabelled))
    assert len(prepare(below_flora).dataset.examples) == 18  # though all are labelled as Fauna
    assert prepare(blind).dataset.identity() == prepare(below_flora).dataset.identity()


def test_the_prefixes_of_another_descent_are_refused(config: TeacherConfig) -> None:
    other = replace(by_descent(config), paradigm="on_policy", teacher=Teacher(prefixes="anywhere"))
    with pytest.raises(SekdError, match="on_policy needs labels: two descents may ask about different paths"):
        prepare(other)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"questions": "guess"}, "choose labels or descent"),
        ({"beam": 0}, "keeps at least one path"),
        ({"stop": 1.5}, r"data\.stop=1\.5: expected a probability"),
        ({"classes": ["Fauna"]}, "chooses images by their labels"),
    ],
)
def test_settings_of_a_descent_that_make_no_sense_are_refused(config: TeacherConfig, data: dict, said: str) -> None:
    with pytest.raises(SekdError, match=said):
        prepare(by_descent(config, **data))


def test_what_a_pass_costs_is_told_before_it_starts(config: TeacherConfig, capfd: pytest.CaptureFixture[str]) -> None:
    run(by_descent(config, within={"kingdom": ["Fauna"]}))
    said = " ".join(capfd.readouterr().err.split())
    assert "in a tree of 256 leaves: about 7 questions an image with beam 2, at most 7; then one a level" in said
    assert "path probability ≥ 0.5" in said
