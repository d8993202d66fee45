"""The report's section about a pass by descent, against a count over its rows."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml

from sekd.datasets import DataConfig, load_dataset
from sekd.embedded.world import write_world
from sekd.errors import SekdError
from sekd.evaluation.certainty import JUDGED, path_certainties
from sekd.evaluation.report.run_files import certainty
from sekd.evaluation.students import find_students
from sekd.store import Layout, Plan, Store, build_rows

LAYOUT = Layout(2, (), 4, "float32", 50, (1, 2, 3, 4), path_logprob=True)


def data(root: Path, **changes: object) -> DataConfig:
    levels = ["kingdom", "order", "family", "genus", "species"]
    splits = {"train": "val.json", "val": None, "test": None}
    return DataConfig("demo", "inat", str(root), splits, levels=levels, skip=1, questions="descent", **changes)  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A student of a pass over 20 images: the surest 15 are answered right, with probabilities from 0.99 down."""
    config = data(write_world(tmp_path / "world", images={"val": {"Fauna": 20}}))
    dataset = load_dataset(config, "train")
    store = Store.create(
        tmp_path / "artifacts/demo", identity={"data": dataset.identity()}, plan=Plan(20, 20), layout=LAYOUT
    )
    columns: dict[str, list] = {name: [] for name in LAYOUT.columns}
    for place, example in enumerate(dataset.examples):
        assert example.path is not None
        for step, question in enumerate(dataset.questions_on(example, example.path)):
            truth = question.truth or 0
            wrong = place >= 15 and step == place % 4
            row = {"sample": example.id, "image": example.id, "step": step, "n_steps": 4, "depth": question.depth}
            row |= {"level": question.level, "options": list(question.options), "truth": -1}
            row |= {"answer": (truth + wrong) % 4, "topk_ids": [1, 2], "topk_logprobs": np.log([0.6, 0.3])}
            row |= {"tail_logprob": np.log(0.1), "path_logprob": np.log(0.99 - 0.02 * place) * (step + 1) / 4}
            for name, value in row.items():
                columns[name].append(value)
    store.write_shard(0, build_rows(LAYOUT, columns), None, {})
    training = tmp_path / "runs/demo"
    (training / "adapter").mkdir(parents=True)
    (training / "adapter/adapter_config.json").write_text("{}")
    (training / "metrics.json").write_text(json.dumps({"settings": "x"}))
    settings = {"data": asdict(config), "artifacts": str(tmp_path / "artifacts"), "fingerprint": store.fingerprint}
    (training / "config.yaml").write_text(yaml.safe_dump(settings))
    return training


def test_every_path_has_its_probability_and_is_right_if_all_its_answers_are(run: Path, tmp_path: Path) -> None:
    dataset = load_dataset(data(tmp_path / "world"), "train")
    store = Store.open(next((tmp_path / "artifacts/demo").iterdir()))
    labels = {example.id: example.path for example in dataset.examples if example.path}
    rows = store.read_targets(0, list(JUDGED))
    found = path_certainties(rows, labels)
    assert [right for _, right in found] == [True] * 15 + [False] * 5
    assert [p for p, _ in found] == pytest.approx([0.99 - 0.02 * place for place in range(20)], rel=1e-4)
    assert [right for _, right in path_certainties(rows, {})] == [None] * 20


def test_the_section_tells_how_many_images_a_threshold_keeps_and_how_many_are_right(run: Path) -> None:
    section = certainty(find_students(run))
    assert section is not None
    [table] = section.tables
    assert [row[1] for row in table.rows] == pytest.approx([10.0 * n for n in range(1, 11)])
    kept = [2 * n for n in range(1, 11)]
    assert [row[2] for row in table.rows] == pytest.approx([100 * min(n, 15) / n for n in kept])
    assert table.plot
    # The surest 15 are all right, and of 16 are 94 %; the store rounds 0.71.
    assert "min_path_probability=0.709999 keeps images of which 99 % are right." in section.text
    assert any("min_path_probability=0.6" in text and "90 %" in text for text in section.text)


def test_a_run_on_labels_has_no_such_section_and_one_whose_pass_is_gone_says_so(run: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**settings, "artifacts": str(tmp_path / "none")}))
    with pytest.raises(SekdError, match="holds no store"):
        certainty(find_students(run))
    settings["data"]["questions"] = "labels"
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    assert certainty(find_students(run)) is None
