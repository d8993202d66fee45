"""A stand-in of each released family through the whole pipeline in bfloat16, one engine a family.

Teacher, verification, comparison of the stored values with transformers, student of all three losses, merged student,
and joint answers of base and student. One student also rehearses the questions of an independent pass.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_reference import Reference, relative_error
from standins import Photos, Standin, write_photos
from standins.photos import RANKS

from sekd.datasets import load_dataset
from sekd.datasets.images import decode
from sekd.evaluation import workers as evaluating
from sekd.evaluation.config import EvaluateConfig
from sekd.evaluation.evaluate import evaluate
from sekd.evaluation.scores import read_run
from sekd.inference.config import EngineConfig
from sekd.inference.engine import Engine
from sekd.models import ModelConfig, load_vlm
from sekd.prompts import Prompter
from sekd.store import Store
from sekd.store.verify import verify
from stage1_teacher import worker as teaching
from stage1_teacher.config import TeacherConfig
from stage1_teacher.generate import run as run_teacher
from stage1_teacher.worker import TeacherWorker
from stage2_student.config import (
    LoraSettings,
    OptimConfig,
    RehearsalConfig,
    StreamConfig,
    StudentConfig,
    TrainerConfig,
    ValidationConfig,
)
from stage2_student.merge import merge
from stage2_student.runs import RunFolder
from stage2_student.training import train

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "internvl3", "llava_onevision")
KINDS = ("odd", "rotated", "transparent", "cmyk")  # every kind is in test_parity_by_family
REHEARSED = ("internvl3",)
LAST = 3
RANK = 8


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    photos = write_photos(tmp_path_factory.mktemp("few"), kinds=KINDS)
    splits = {"train": "photos.json", "val": None, "test": None}
    return replace(photos, data=replace(photos.data, splits=splits, levels=list(RANKS[:4])))


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, standin: Standin) -> ModelConfig:
    model = standin(request.param, "bfloat16")
    return replace(model, max_tiles=4) if request.param == "internvl3" else model


@pytest.fixture
def engine(model: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineConfig]:
    """Settings of an engine that runs already, for the teacher and for the evaluation."""
    settings = EngineConfig(kv_cache_gb=0.125, max_model_len=4096, max_num_seqs=8, image_cache_gb=0.5)
    with Engine(model, settings, layers=(LAST,), max_lora_rank=RANK) as engine:
        monkeypatch.setattr(teaching, "Engine", lambda *_, **__: engine)
        monkeypatch.setattr(TeacherWorker, "close", lambda self: None)
        monkeypatch.setattr(evaluating, "Engine", lambda *_, **__: engine)
        monkeypatch.setattr(evaluating.EvalWorker, "close", lambda self: None)
        yield settings


@pytest.mark.slow
def test_a_family_goes_from_photos_to_an_evaluated_student(
    model: ModelConfig, engine: EngineConfig, few: Photos, tmp_path: Path
) -> None:
    shared = {"data": few.data, "model": model}
    artifacts, runs = str(tmp_path / "artifacts"), str(tmp_path / "runs")

    asked = TeacherConfig(**shared, engine=engine, artifacts=artifacts, shard_size=2, progress=False)
    store = run_teacher(asked)
    assert verify(store) == []
    assert store.layout.layers == (LAST,)
    assert not [entry for shard in range(store.plan.n_shards) for entry in store.entry(shard).skipped]

    assert_stored_as_in_transformers(store, model, few)
    rehearsed = run_teacher(replace(asked, paradigm="independent")) if model.name in REHEARSED else None

    config = StudentConfig(
        **shared,
        rehearsal=RehearsalConfig(
            paradigm="independent" if rehearsed else None,
            requests=["independent", "Describe this image."],
            images=2,
            weight=4.0,
        ),
        lora=LoraSettings(rank=RANK, alpha=RANK),
        optim=OptimConfig(lr=1e-2, batch_size=2, warmup_steps=0),
        stream=StreamConfig(buffer=8, open_shards=2, workers=1),
        trainer=TrainerConfig(
            accelerator="cpu", devices="1", precision="bf16-mixed", log_every=1, progress=False, loggers=["csv"]
        ),
        validation=ValidationConfig(times=0, held_out=0.0, images=2, batch_size=2, split="train"),
        name="student",
        runs=runs,
    )
    run = RunFolder.of(config, fingerprint=store.fingerprint, rehearsed=rehearsed.fingerprint if rehearsed else None)
    assert run.prepare(force=False)
    metrics = train(config, store, run, rehearsed=rehearsed)
    assert metrics["steps"] == len(KINDS) // 2 + (rehearsed is not None)  # half as many questions as paths
    assert math.isfinite(metrics["loss"])
    columns = next(run.path.glob("logs/*/metrics.csv")).read_text().splitlines()[0].split(",")
    assert {"train/hard", "train/soft", "train/hidden", "train/requests"} <= {*columns}
    load_vlm(ModelConfig(name="merged", path=str(merge(run.path))))

    examined = EvaluateConfig(
        **shared, engine=engine, name="student", runs=runs, split="train", base=["joint"], limit=2, workers=1,
        resamples=10, progress=False,
    )  # fmt: skip
    evaluate(examined, unseen=[])
    replies = {each.cell.model: [one.texts for one in each.generations] for each in read_run(run.path)}
    assert sorted(replies) == ["base", "student"]
    assert len(replies["student"]) == 2
    assert replies["student"] != replies["base"], "the adapter changes no answer"


def assert_stored_as_in_transformers(store: Store, model: ModelConfig, photos: Photos) -> None:
    """The first image's rows, within the rounding of bfloat16."""
    reference, prompter = Reference(model, torch.bfloat16), Prompter.named(model.wording)
    dataset = load_dataset(photos.data, "train")
    states = torch.from_numpy(store.hidden(0)[:]).view(torch.bfloat16).float().numpy()
    rows = store.read_targets(0).to_pylist()
    questions = dataset.questions(next(one for one in dataset.examples if one.id == rows[0]["sample"]))
    answers = [row["answer"] for row in rows[: len(questions)]]
    for step in (0, len(questions) - 1):
        row, prompt = rows[step], prompter.conditioned(questions, step, answers[:step])
        expected = reference(prompter.render(reference.processor, prompt), decode(photos.root / row["image"]))
        found = np.array(row["topk_logprobs"])
        assert relative_error(states[step], expected.hidden[[LAST]]) <= 2**-5
        assert np.abs(found - expected.logprobs[row["topk_ids"]]).max() <= 0.25
        assert row["topk_ids"][0] in np.argsort(-expected.logprobs)[:3]
