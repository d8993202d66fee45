"""Whole runs on a small store: what is written, and that the same settings give the same student."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from student_settings import Configure

from sekd.errors import SekdError
from sekd.memory import GIB, Estimate, ModelSize, student_memory
from sekd.store import Store
from stage2_student.config import (
    OptimConfig,
    RehearsalConfig,
    StreamConfig,
    StudentConfig,
    TrainerConfig,
    ValidationConfig,
)
from stage2_student.runs import RunFolder
from stage2_student.training import assemble, train


def run_of(config: StudentConfig, store: Store) -> RunFolder:
    run = RunFolder.of(config, fingerprint=store.fingerprint)
    assert run.prepare(force=config.force)
    return run


def losses_of(run: RunFolder) -> dict[int, str]:
    """The loss of every step as it was written down, over all starts of the run."""
    rows = [row for log in run.path.glob("logs/*/metrics.csv") for row in csv.DictReader(log.open())]
    return {int(row["step"]): row["train/loss"] for row in rows if row.get("train/loss")}


def store_bytes(store: Store) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted(store.path.rglob("*")) if file.is_file()}


@pytest.fixture
def trained(configure: Configure, store: Store) -> RunFolder:
    config = configure()
    run = run_of(config, store)
    train(config, store, run)
    return run


def test_a_run_leaves_an_adapter_its_settings_and_its_metrics_and_the_store_untouched(
    configure: Configure, store: Store
) -> None:
    before = store_bytes(store)
    config = configure()
    run = run_of(config, store)
    train(config, store, run)
    assert {file.name for file in run.adapter.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
    }
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert metrics["fingerprint"] == store.fingerprint
    assert metrics["steps"] == len(losses_of(run)) == 12
    assert {"agreement", "agreement/order", "hca", "parse_failures"} <= set(metrics["val"])
    assert store_bytes(store) == before


def test_the_number_of_workers_changes_no_loss(trained: RunFolder, configure: Configure, store: Store) -> None:
    for workers in (1, 3):
        stream = StreamConfig(buffer=16, open_shards=2, workers=workers)
        config = replace(configure(stream=stream), name=f"workers{workers}")
        run = run_of(config, store)
        train(config, store, run)
        assert losses_of(run) == losses_of(trained)


def test_batches_that_are_read_ahead_count_as_memory(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sekd.memory.device_bytes", lambda *, cuda: (1.2 * GIB, "this machine"))
    config = configure(stream=StreamConfig(buffer=16, workers=400))
    with pytest.raises(SekdError, match=r"on this machine \(.*batches read ahead .*cannot fit; .*stream\.buffer"):
        train(config, store, run_of(config, store))
    few = replace(config, stream=StreamConfig(buffer=16, workers=1), name="few")
    assert train(few, store, run_of(few, store))["steps"] == 12


def test_rehearsed_requests_count_as_memory(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens of a step are those of a batch of that size: its paths, and its requests."""
    counted: list[int] = []

    def count(size: ModelSize, *, tokens: int, **others: Any) -> Estimate:
        counted.append(tokens)
        return student_memory(size, tokens=tokens, **others)

    monkeypatch.setattr("stage2_student.training.student_memory", count)
    for images in (1, 3, 16):
        rehearsal = RehearsalConfig(requests=["describe", "independent"], images=images)
        _, data = assemble(configure(rehearsal=rehearsal, optim=OptimConfig(batch_size=12)), store)
        batch = next(iter(data.train_dataloader()))
        assert batch.requests is not None
        tokens = batch.inputs["input_ids"].numel() + batch.requests.inputs["input_ids"].numel()
        assert counted[-1] == pytest.approx(tokens, rel=0.05)
    assert counted[0] < counted[1] < 0.9 * counted[2]


def test_one_image_at_a_time_in_bfloat16_is_read_by_workers_to_the_end(configure: Configure, store: Store) -> None:
    """A small tensor travels another way than a large one; a last batch is smaller than the others."""
    kept = []
    for batch_size, workers in ((1, 0), (1, 2), (7, 0), (7, 2)):
        config = configure(
            optim=OptimConfig(lr=1e-2, batch_size=batch_size, epochs=1, warmup_steps=2),
            stream=StreamConfig(buffer=16, open_shards=2, workers=workers),
            trainer=TrainerConfig(
                accelerator="cpu", devices="1", precision="bf16-mixed", log_every=1, progress=False, loggers=["csv"]
            ),
            validation=ValidationConfig(times=0, held_out=0.1, images=0, batch_size=1),
        )
        run = run_of(replace(config, name=f"batch{batch_size}workers{workers}"), store)
        train(config, store, run)
        kept.append(losses_of(run))
    assert [len(losses) for losses in kept] == [45, 45, 7, 7]
    assert (kept[0], kept[2]) == (kept[1], kept[3])
