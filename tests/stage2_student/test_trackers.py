"""What a tracker holds after a training, and after the report has added its plots."""

from dataclasses import replace
from pathlib import Path

import pytest
from student_settings import Configure

from sekd.errors import SekdError
from sekd.evaluation.report.plots import Interval, intervals, png
from sekd.store import Store
from sekd.tracking import add_images
from stage2_student.checks import check_settings
from stage2_student.runs import RunFolder
from stage2_student.training import train


def in_tensorboard(run: Path) -> tuple[set[str], set[str]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [folder] = (run / "logs/tensorboard").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    return set(events.Tags()["scalars"]), set(events.Tags()["images"])


def in_mlflow(run: Path) -> tuple[set[str], set[str]]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run.parent}/mlflow.db")
    [experiment] = [each for each in client.search_experiments() if each.name == "sekd"]
    [found] = client.search_runs([experiment.experiment_id])
    assert found.data.params["lora/rank"] == "4"
    files = client.list_artifacts(found.info.run_id, "plots")
    return set(found.data.metrics), {file.path.removesuffix(".png") for file in files}


def in_wandb(run: Path) -> tuple[set[str], set[str]]:
    """From the files of the offline runs: the first of the training, the second of the report, of one id."""
    folders = sorted((run / "wandb").glob("offline-run-*"))
    assert len({folder.name.rpartition("-")[2] for folder in folders}) == 1
    raw = b"".join(file.read_bytes() for folder in folders for file in folder.glob("*.wandb"))
    images = {file.name.partition("_")[0] for file in run.glob("wandb/*/files/media/images/plots/*.png")}
    numbers = {name for name in ("train/loss", "val/agreement") if name.encode() in raw}
    return numbers, {f"plots/{name}" for name in images}


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", pytest.param("mlflow", marks=pytest.mark.slow)])
def test_a_tracker_holds_the_numbers_and_the_plots_of_training_and_report(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    config = replace(configure(), tracker=tracker)
    run = RunFolder.of(config, fingerprint=store.fingerprint)
    assert run.digest == RunFolder.of(configure(), fingerprint=store.fingerprint).digest, "the same student"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config.trainer.max_steps = 2
    run.prepare(force=False)
    train(config, store, run)
    plot = intervals({"t": [Interval("a", 1.0, 0.0, 2.0, 0)]}, "x", limits=(0, 100))
    add_images(run.path, lambda: {"calibration-1.png": png(plot)})
    numbers, images = {"tensorboard": in_tensorboard, "mlflow": in_mlflow, "wandb": in_wandb}[tracker](run.path)
    assert {"train/loss", "val/agreement"} <= numbers
    assert images == {"plots/training-1", "plots/calibration-1"}


def test_an_unknown_tracker_and_a_missing_package_are_refused_before_training(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SekdError, match="tracker=neptune is unknown: choose tensorboard, wandb, mlflow"):
        check_settings(replace(configure(), tracker="neptune"))
    monkeypatch.setattr("sekd.tracking.find_spec", lambda module: None if module == "sqlalchemy" else object())
    with pytest.raises(SekdError, match=r"tracker=mlflow needs sqlalchemy: .*`uv pip install sqlalchemy`"):
        check_settings(replace(configure(), tracker="mlflow"))


def test_a_training_without_a_tracker_draws_nothing_for_one(tmp_path: Path) -> None:
    add_images(tmp_path, lambda: pytest.fail("drawn"))
