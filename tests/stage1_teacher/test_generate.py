"""Whole passes over a small world on a shared engine."""

import json
import pickle
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from teacher_passes import contents

from sekd.datasets import Dataset
from sekd.errors import SekdError
from sekd.store import Store
from sekd.store.lock import hold
from sekd.store.verify import verify
from stage1_teacher import generate
from stage1_teacher.config import Teacher, TeacherConfig
from stage1_teacher.generate import prepare, run
from stage1_teacher.teacher_modes import TEACHER_MODES
from stage1_teacher.worker import TeacherWorker, ask_shards


def ask(worker: TeacherWorker, dataset: Dataset, places: range) -> Any:
    ((_, shard, _),) = ask_shards(
        worker._engine,
        worker._strategies,
        dataset,
        lambda _: places,
        0,
        more=lambda: None,
        mode=TEACHER_MODES["conditioned"],
        layout=worker._store.layout,
        report=lambda index, stats: None,
    )
    return shard


def test_a_pass_stores_every_step_of_every_image_once(whole: Path) -> None:
    store = Store.open(whole)
    rows = [row for index in range(store.plan.n_shards) for row in store.read_targets(index).to_pylist()]
    assert len(rows) == 18 * 4
    assert [(row["step"], row["n_steps"]) for row in rows] == [(step, 4) for _ in range(18) for step in range(4)]
    assert verify(store) == []
    hidden = np.concatenate([store.hidden(index)[:] for index in range(store.plan.n_shards)])
    assert hidden.shape == (72, 2, 128)
    assert hidden.dtype == np.float32


def test_shuffled_truths_change_no_target(worker: TeacherWorker) -> None:
    dataset = worker._dataset
    shuffled = replace(dataset, examples=[replace(e, questions=_mislabelled(dataset, e)) for e in dataset.examples])
    honest, lied_to = ask(worker, dataset, range(4)), ask(worker, shuffled, range(4))
    assert honest.rows.column("truth") != lied_to.rows.column("truth")
    assert honest.rows.drop_columns("truth").equals(lied_to.rows.drop_columns("truth"))
    assert np.array_equal(honest.hidden, lied_to.hidden)


def _mislabelled(dataset: Dataset, example: Any) -> tuple:
    rng = random.Random(example.id)
    return tuple(replace(q, truth=rng.choice([None, *range(len(q.options))])) for q in dataset.questions(example))


def test_a_shard_does_not_depend_on_what_was_asked_before_it(worker: TeacherWorker) -> None:
    dataset = worker._dataset
    alone = ask(worker, dataset, range(8, 12))
    ask(worker, dataset, range(0, 8))
    after = ask(worker, dataset, range(8, 12))
    assert alone.rows.equals(after.rows)
    assert np.array_equal(alone.hidden, after.hidden)


@pytest.mark.usefixtures("lent")
def test_a_second_run_has_nothing_to_do_and_loads_no_engine(config: TeacherConfig) -> None:
    path = run(config).path
    before = contents(path)
    code = (
        "import sys, pickle; from stage1_teacher.generate import run; "
        "run(pickle.load(sys.stdin.buffer)); assert 'vllm' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(config), capture_output=True, check=True)
    assert "complete, nothing to do" in " ".join(done.stderr.decode().split())
    assert contents(path) == before


@pytest.mark.usefixtures("lent")
def test_parts_asked_one_by_one_give_the_whole_pass(config: TeacherConfig, whole: Path) -> None:
    for part in ("1/3", "0/3", "2/3"):
        store = run(replace(config, shard=part))
    assert contents(store.path) == contents(whole)


@pytest.mark.usefixtures("lent")
def test_an_engine_that_dies_costs_the_shards_in_hand_alone(
    config: TeacherConfig, whole: Path, worker: TeacherWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance, steps = worker._engine.advance, iter(range(10**6))

    def mortal() -> Any:
        if next(steps) == 6:
            raise RuntimeError("out of memory")
        return advance()

    monkeypatch.setattr(worker._engine, "advance", mortal)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(config)
    store = prepare(config).store
    assert 0 < len(store.missing()) < store.plan.n_shards
    run(config)
    assert contents(store.path) == contents(whole)


@pytest.mark.usefixtures("lent")
def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(
    config: TeacherConfig, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = Store.write_shard, iter(range(100))

    def full(self: Store, *arguments: Any, **named: Any) -> None:
        if next(calls) == 2:
            raise SekdError("no space left on device")
        write(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_shard", full)
        with pytest.raises(SekdError, match="no space left"):
            run(config)
    store = run(config)
    assert contents(store.path) == contents(whole)


@pytest.mark.usefixtures("lent")
def test_a_forgotten_shard_is_the_only_one_asked_again(config: TeacherConfig, whole: Path) -> None:
    from sekd.store.verify import forget

    path = run(config).path
    target = path / "shards" / "00002" / "targets.parquet"
    target.write_bytes(target.read_bytes()[:-7])
    forget(path, verify(path))
    kept = (path / "shards" / "00001" / "targets.parquet").stat().st_mtime_ns
    assert prepare(config).missing == [2]
    run(config)
    assert contents(path) == contents(whole)
    assert (path / "shards" / "00001" / "targets.parquet").stat().st_mtime_ns == kept


def test_a_second_run_on_one_store_is_refused_by_name(config: TeacherConfig) -> None:
    job = prepare(config)
    with hold(job.store.path), pytest.raises(SekdError, match=r"in use by process \d+"):
        run(config)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"workers": 3}, True),
        ({"shard_size": 7}, True),
        ({"unreadable_share": 0.5}, True),
        ({"topk": 9}, False),
        ({"layers": []}, False),
        ({"layers": [-1]}, False),
        ({"paradigm": "independent"}, False),
        ({"hidden_dtype": "bfloat16"}, False),
    ],
)
def test_what_answers_depend_on_makes_a_new_store_and_nothing_else(
    config: TeacherConfig, change: dict, same: bool
) -> None:
    first, second = prepare(config), prepare(replace(config, **change))
    assert (first.store.path == second.store.path) == same


@pytest.mark.parametrize(
    ("group", "change", "same"),
    [
        ("engine", {"max_num_seqs": 3}, True),
        ("engine", {"readers": 7}, True),
        ("model", {"wording": "plain"}, False),
        ("model", {"dtype": "bfloat16"}, False),
        ("model", {"max_pixels": 5000}, False),
        ("data", {"seed": 1}, False),
        ("data", {"distractors": "similar"}, False),
        ("data", {"limit": 7}, False),
    ],
)
def test_the_same_holds_within_the_groups(config: TeacherConfig, group: str, change: dict, same: bool) -> None:
    other = replace(config, **{group: replace(getattr(config, group), **change)})
    assert (prepare(config).store.path == prepare(other).store.path) == same


def test_a_worker_that_would_ask_other_questions_than_planned_refuses(config: TeacherConfig) -> None:
    path = prepare(config).store.path
    reseeded = replace(config, data=replace(config.data, seed=5))
    with pytest.raises(SekdError, match="data changed since this pass was planned"):
        TeacherWorker(reseeded, path)


def test_layers_the_model_does_not_have_are_refused_with_what_it_has(config: TeacherConfig) -> None:
    with pytest.raises(SekdError, match="decoder layers 1 to 4"):
        generate.prepare(replace(config, layers=[7]))


def test_an_adapter_of_another_family_is_refused_before_a_store_is_made(config: TeacherConfig, tmp_path: Path) -> None:
    other = {
        "base_model_name_or_path": "elsewhere",
        "auto_mapping": {"base_model_class": "LlavaForConditionalGeneration"},
    }
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"r": 8, **other}))
    save_file({}, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(SekdError, match=r"trained for another family of models \(elsewhere, a LlavaFor"):
        prepare(replace(config, teacher=Teacher(adapter=str(tmp_path / "adapter"))))
    assert not Path(config.artifacts).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paradigm": "guess"}, "conditioned, independent, joint, shuffled, truth"),
        ({"cluster": "slurm"}, "ray"),
        ({"workers": 0}, "at least one"),
        ({"shard": "2"}, "i/n"),
        ({"shard": "2/2"}, "part 2/2 does not exist"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config: TeacherConfig, change: dict, message: str) -> None:
    with pytest.raises(SekdError, match=message):
        prepare(replace(config, **change))


def test_names_with_brackets_and_colons_are_said_as_they_are(
    config: TeacherConfig, tmp_path: Path, lent: None, capsys: pytest.CaptureFixture
) -> None:
    artifacts = tmp_path / "[old] :bug: x[" / "1].jpg"
    run(replace(config, artifacts=str(artifacts)))
    assert "[old] :bug: x[/1].jpg" in capsys.readouterr().err.replace("\n", "")
