"""The benchmark's own question file, with a folder in place of its authors' machine."""

import json
from pathlib import Path

import pytest
from PIL import Image
from real_trees import TREES

from sekd.datasets import DataConfig, load_dataset
from sekd.taxonomy import load_taxonomy

OFFICIAL = TREES / "CUB200_with_similar_choice.first400.jsonl"


@pytest.mark.skipif(not OFFICIAL.is_file(), reason="the published question file is not at hand")
def test_the_official_questions_are_taken_as_given(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in OFFICIAL.read_text().splitlines()]
    for row in rows:
        file = tmp_path / row["image"].split("CUB_200_2011/")[1]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(file)
    levels = ["order", "family", "genus", "species"]
    config = DataConfig("choices", "choices", str(tmp_path), {"test": str(OFFICIAL.resolve())}, levels=levels)
    dataset = load_dataset(config, "test")
    assert len(dataset.examples) == 400
    tree = load_taxonomy(TREES / "hierarchy_CUB200.json")
    by_image = {row["image"].split("CUB_200_2011/")[1]: row for row in rows}
    for example in dataset.examples:
        row, questions = by_image[example.id], dataset.questions(example)
        assert tree.path(example.path or ()) == tree.keys[row["label"].lower()]
        assert [question.level for question in questions] == levels
        assert [list(question.options) for question in questions] == [row[f"choices_level{i}"] for i in (1, 2, 3, 4)]
        assert [question.truth_name for question in questions] == [row[f"level{i}"] for i in (1, 2, 3, 4)]
