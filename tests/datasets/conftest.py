"""Miniatures of every dataset, written where a test asks for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from miniatures import MAKERS, config

from sekd.datasets import DataConfig, Dataset, load_dataset


@pytest.fixture(params=sorted(MAKERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Dataset]:
    """Writes a dataset's miniature the first time, and reads a split of it."""

    def loaded(name: str, split: str = "train", **overrides: Any) -> Dataset:
        return load_dataset(made(tmp_path, name, **overrides), split)

    return loaded


def made(folder: Path, name: str, **overrides: Any) -> DataConfig:
    if not any(folder.iterdir()):
        MADE[folder] = MAKERS[name](folder)
    return config(name, folder, **{**MADE[folder], **overrides})


MADE: dict[Path, dict[str, Any]] = {}
