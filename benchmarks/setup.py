"""The two models that are measured, their images, and the teacher's pass over them."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.apart import run_apart
from sekd.datasets import DataConfig, Dataset, Example, load_dataset
from sekd.datasets.images import decode
from sekd.embedded.world import write_world
from sekd.models import ModelConfig
from sekd.store import Store
from tools.pretrain_base.tiny_vlm import config, save, save_random

LEVELS = ["kingdom", "order", "family", "genus", "species"]


@dataclass(frozen=True)
class Setup:
    """One model with random weights, its images, and a folder for what the benchmarks write."""

    title: str
    model: ModelConfig
    data: DataConfig
    folder: Path

    @cached_property
    def dataset(self) -> Dataset:
        """The images with their questions."""
        return load_dataset(self.data, "train")

    def pictures(self, examples: Sequence[Example]) -> list[Image.Image]:
        """Their decoded images."""
        return [decode(self.dataset.image_path(example)) for example in examples]

    def run_pass(self, name: str, *overrides: str) -> Store:
        """Run the teacher's command over the images; its store is in a folder of the given name."""
        # As many shards for every engine.
        artifacts, size = self.folder / name, -(-len(self.dataset.examples) // (6 * workers()))
        self.run("stage1_teacher", f"artifacts={artifacts}", f"workers={workers()}", f"shard_size={size}", *overrides)
        return Store.open(next((artifacts / "demo").iterdir()))

    def run(self, module: str, *overrides: str) -> None:
        """Run a stage's command on the model and images, with further Hydra settings."""
        fixed = (f"model.path={self.model.path}", f"data.root={self.data.root}")
        command = [sys.executable, "-m", module, "model=tiny", "data=demo", *fixed, *overrides]
        run_apart(command, stdout=subprocess.DEVNULL)


def workers() -> int:
    """Engines of a pass: one on a GPU, as the loops have one, or one a core."""
    return 1 if torch.cuda.is_available() else len(os.sched_getaffinity(0))


def prepare(spec: tuple[str, Callable[[Path], Path]], folder: Path, *, images: int) -> Setup:
    """Write the model and render the images."""
    title, make = spec
    folder = folder / title.split(",")[0].replace(" ", "-")
    world = write_world(folder / "world", images={"train_mini": {"Fauna": images}})
    splits = {"train": "train_mini.json", "val": None, "test": None}
    data = DataConfig(name="demo", format="inat", root=str(world), splits=splits, levels=LEVELS, skip=1)
    model = ModelConfig(name="tiny", path=str(make(folder / "model")), dtype="float32", wording="terse")
    return Setup(title, model, data, folder)


def thirty_million(folder: Path) -> Path:
    """A Qwen2.5-VL of 30 M parameters; images of 224 × 224 pixels are 64 tokens."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    text = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8}
    text |= {"num_key_value_heads": 2}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 12, 12]}
    vision: dict[str, Any] = {"depth": 6, "hidden_size": 256, "intermediate_size": 512, "num_heads": 4}
    vision |= {"patch_size": 14, "window_size": 112, "fullatt_block_indexes": [2, 5], "out_hidden_size": 512}
    sizes = config(**text, rope_parameters=rope).to_dict()
    sizes["vision_config"] |= vision
    vlm: Any = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_dict(sizes))
    return save(vlm, folder, side=224, patch=14)


MODELS = (("embedded, 1.1 M", save_random), ("30 M, 224 px", thirty_million))
