"""The teacher pass starts from every dataset exactly as it is published, and ends in shards that verify."""

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from sekd.datasets import load_dataset
from sekd.store.verify import verify
from stage1_teacher.config import TeacherConfig
from stage1_teacher.generate import run

DATASETS = ["inat", "inat_plant", "cub", "food101", "imagenet_animal", "imagenet_artifact", "folder", "choices"]


@pytest.fixture
def miniatures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The makers of every dataset in small, which the datasets' own tests use."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "datasets")
    return importlib.import_module("miniatures")


@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize("name", DATASETS)
def test_the_teacher_pass_runs_from_a_published_folder_to_verified_shards(
    name: str, config: TeacherConfig, miniatures: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    data = miniatures.config(name, folder, limit=6, **miniatures.MAKERS[name](folder))
    store = run(replace(config, data=data))
    assert store.path.parent.name == name
    assert verify(store) == []
    rows = [row for index in range(store.plan.n_shards) for row in store.read_targets(index).to_pylist()]
    dataset = load_dataset(data, "train")
    asked = [(example, question) for example in dataset.examples for question in dataset.questions(example)]
    assert len(dataset.examples) == 6
    assert [(row["sample"], row["level"], tuple(row["options"]), row["truth"]) for row in rows] == [
        (example.id, question.level, question.options, question.truth) for example, question in asked
    ]
    assert all(0 <= row["answer"] < len(row["options"]) for row in rows)
