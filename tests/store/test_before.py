"""A store that an earlier version wrote is read, verified, written again byte for byte, and distilled from.

``before/`` holds two passes over eight of the demo's images in two shards, written by version 0.1.0 in format 1: one
by vLLM, and one by transformers whose hidden states are bfloat16.
"""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from store_passes import data_bytes

import sekd
from sekd.datasets import DataConfig
from sekd.models import ModelConfig
from sekd.store import Store, as_float32
from sekd.store.verify import verify
from stage2_student.config import OptimConfig, StreamConfig, StudentConfig, TrainerConfig, ValidationConfig
from stage2_student.runs import RunFolder
from stage2_student.training import train

BEFORE = Path(__file__).parent / "before"
PASSES = {"float32": "407a947ce02bb756", "bfloat16": "89ffe4fa0e4eecf5"}  # by the type of their hidden states


@pytest.fixture(params=PASSES)
def before(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    name = PASSES[request.param]
    store = Store.open(shutil.copytree(BEFORE / name, tmp_path / "artifacts" / "demo" / name))
    assert (store.fingerprint, store.layout.hidden_dtype) == (name, request.param)
    return store


def test_it_is_found_whole_and_without_a_fault(before: Store) -> None:
    assert Store.find(before.path.parents[1], "demo").path == before.path
    assert verify(before) == []


def test_it_is_read_row_by_row_and_state_by_state(before: Store) -> None:
    steps = []
    for index in range(before.plan.n_shards):
        rows = before.read_targets(index)
        steps += rows.column("step").to_pylist()
        hidden = as_float32(before.hidden(index), before.layout.hidden_dtype)
        assert hidden.shape == (len(rows), 1, before.layout.hidden_size)
        assert np.isfinite(hidden).all()
    assert steps == 8 * [0, 1, 2, 3]


def test_the_same_rows_written_today_give_the_same_bytes(before: Store, tmp_path: Path) -> None:
    again = Store.create(tmp_path / "again", identity=before.identity, plan=before.plan, layout=before.layout)
    for index in range(before.plan.n_shards):
        again.write_shard(index, before.read_targets(index), before.hidden(index), {})
    targets = "shards/00000/targets.parquet"
    if pq.read_metadata(before.path / targets).created_by != pq.read_metadata(again.path / targets).created_by:
        pytest.skip("another version of Arrow, which writes its name into the file")
    assert data_bytes(again) == data_bytes(before)


def test_a_student_is_distilled_from_it(before: Store, tmp_path: Path) -> None:
    """The images are made up: only their size matters to the step."""
    for index in range(before.plan.n_shards):
        for image in before.read_targets(index, ["image"]).column("image").unique().to_pylist():
            file = tmp_path / "data" / image
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (56, 56), "green").save(file)
    base = Path(sekd.__path__[0]) / "embedded" / "base"
    config = StudentConfig(
        model=ModelConfig(name="tiny", path=str(base), wording="terse", dtype="float32"),
        data=DataConfig(name="demo", format="inat", root=str(tmp_path / "data"), splits={}),
        optim=OptimConfig(batch_size=8, epochs=1, warmup_steps=0),
        stream=StreamConfig(buffer=16, open_shards=2, workers=0),
        trainer=TrainerConfig(accelerator="cpu", devices="1", log_every=1, progress=False, loggers=[]),
        validation=ValidationConfig(times=0, held_out=0, images=0),
        name="run",
        runs=str(tmp_path / "runs"),
    )
    run = RunFolder.of(config, fingerprint=before.fingerprint)
    run.prepare(force=False)
    metrics = train(config, before, run)
    assert metrics["steps"] == 1
    assert np.isfinite(metrics["loss"])
