"""Settings of a small pass, and what of a store has to be equal byte for byte."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sekd.datasets import DataConfig
from sekd.inference.config import EngineConfig
from sekd.models import ModelConfig
from stage1_teacher.config import TeacherConfig
from stage1_teacher.worker import TeacherWorker

Running = Callable[[], TeacherWorker]
TOPK = 32  # enough to hold a letter of an untrained model now and then


def settings(world: Path, model: Path, artifacts: Path, **changes: Any) -> TeacherConfig:
    data = DataConfig(
        name="small",
        format="inat",
        root=str(world),
        splits={"train": "train_mini.json", "val": None, "test": None},
        levels=["kingdom", "order", "family", "genus", "species"],
        skip=1,
    )
    return TeacherConfig(
        data=data,
        model=ModelConfig(name="random", path=str(model), dtype="float32", wording="terse"),
        engine=EngineConfig(kv_cache_gb=0.0625, max_num_seqs=8, image_cache_gb=0.1),
        layers=[2, -1],
        topk=TOPK,
        shard_size=4,
        artifacts=str(artifacts),
        progress=False,
        **changes,
    )


def contents(store: Path) -> dict[str, str]:
    """Digest of every file that holds data or says which data there is; not when and where it was made."""
    return {
        file.relative_to(store).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for folder in ("shards", "manifest")
        for file in sorted((store / folder).rglob("*"))
        if file.is_file()
    } | {"manifest.json": hashlib.sha256((store / "manifest.json").read_bytes()).hexdigest()}
