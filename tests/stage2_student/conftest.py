"""A small world, an untrained model, and that model's own pass over it, shared by the tests of stage 2."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hf_teacher import store_pass

from sekd.datasets import DataConfig
from sekd.embedded.world import write_world
from sekd.models import ModelConfig
from sekd.store import Store
from stage2_student.config import (
    LoraSettings,
    OptimConfig,
    StreamConfig,
    StudentConfig,
    TrainerConfig,
    ValidationConfig,
)
from tools.pretrain_base import tiny_vlm


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    folder = tiny_vlm.save_random(tmp_path_factory.mktemp("model") / "tiny")
    return ModelConfig(name="tiny", path=str(folder), wording="terse", dtype="float32")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    root = tmp_path_factory.mktemp("data") / "demo"
    write_world(root, images={"train_mini": {"Fauna": 50}, "val": {"Fauna": 6}})
    return DataConfig(
        name="demo",
        format="inat",
        root=str(root),
        splits={"train": "train_mini.json", "val": "val.json", "test": None},
        levels=["kingdom", "order", "family", "genus", "species"],
        skip=1,
        within={"kingdom": ["Fauna"]},
    )


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, model: ModelConfig, data: DataConfig) -> Store:
    return store_pass(tmp_path_factory.mktemp("artifacts"), model=model, data=data)


@pytest.fixture
def configure(tmp_path: Path, model: ModelConfig, data: DataConfig, store: Store) -> Callable[..., StudentConfig]:
    """Settings of a short run; arguments replace whole groups or single settings."""

    def make(**changes: Any) -> StudentConfig:
        settings: dict[str, Any] = {
            "model": model,
            "data": data,
            "lora": LoraSettings(rank=4, alpha=8, dropout=0.1),
            "optim": OptimConfig(lr=1e-2, batch_size=8, epochs=2, warmup_steps=2),
            "stream": StreamConfig(buffer=16, open_shards=2, workers=0),
            "trainer": TrainerConfig(accelerator="cpu", devices="1", log_every=1, progress=False, loggers=["csv"]),
            "validation": ValidationConfig(times=0, held_out=0.1, images=4, batch_size=4),
            "name": "run",
            "store": str(store.path),
            "runs": str(tmp_path / "runs"),
        }
        return StudentConfig(**{**settings, **changes})

    return make
