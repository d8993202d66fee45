"""Folders of images without labels, and the trees that their paths are looked for in."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sekd.datasets import DataConfig, load_dataset
from sekd.errors import SekdError

TREE = "leaf,order,family,species\nowl,Owls,Strigidae,Bubo bubo\nbarn,Owls,Tytonidae,Tyto alba\nant,Ants,,\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "trip/b.PNG", "trip/deep/er/c.webp", "owl/d.jpeg", ".thumbs/e.jpg", ".f.jpg"):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(file)
    (tmp_path / "photos/notes.txt").write_text("no image")
    (tmp_path / "photos/trip/clip.MOV").write_text("no image")
    (tmp_path / "photos/tree.csv").write_text(TREE)
    return tmp_path / "photos"


def config(folder: Path, **changes: Any) -> DataConfig:
    settings = {"splits": {"train": "."}, "hierarchy": "tree.csv", "questions": "descent"} | changes
    return DataConfig("photos", "photos", str(folder), **settings)


def test_every_image_at_any_depth_is_an_example_and_hidden_ones_are_not(folder: Path) -> None:
    dataset = load_dataset(config(folder), "train")
    assert {example.id for example in dataset.examples} == {"a.jpg", "trip/b.PNG", "trip/deep/er/c.webp", "owl/d.jpeg"}
    assert {example.path for example in dataset.examples} == {None}
    assert dataset.taxonomy.level_names == ("order", "family", "species")


def test_what_is_left_out_and_what_is_not_read_is_told(folder: Path) -> None:
    notes = load_dataset(config(folder), "train").notes
    assert "3 other files are left out (.csv, .mov, .txt)" in notes
    assert any(note.startswith("1 folders are called as nodes of the tree, like owl") for note in notes)


def test_names_of_folders_change_neither_the_identity_nor_the_order_of_the_questions(folder: Path) -> None:
    tree = (folder / "tree.csv").rename(folder.parent / "tree.csv")
    before = load_dataset(config(folder, hierarchy=str(tree)), "train").identity()
    (folder / "labels.csv").write_text("a.jpg,owl")
    assert load_dataset(config(folder, hierarchy=str(tree)), "train").identity() == before
    assert load_dataset(config(folder, hierarchy=str(tree), beam=5), "train").identity() != before
    assert load_dataset(config(folder, hierarchy=str(tree), stop=0.5), "train").identity() != before


def test_a_leaf_with_nodes_below_it_is_told(folder: Path) -> None:
    (folder / "tree.csv").write_text(TREE + "some owl,Owls,,\n")
    notes = load_dataset(config(folder), "train").notes
    assert any("1 leaves of the tree have nodes below them, like Owls" in note for note in notes)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (None, "needs a tree, and there is none at"),
        ("leaf,order,family\na,Owls,Ants\nb,Ants,Owls\n", "has a cycle"),
        ("leaf,order,family\n", "holds no path"),
        ("leaf,order\na,Owls\n", "offers no choice"),
    ],
)
def test_a_tree_to_look_in_is_needed(folder: Path, tree: str | None, said: str) -> None:
    (folder / "tree.csv").unlink()
    if tree:
        (folder / "tree.csv").write_text(tree)
    with pytest.raises(SekdError, match=said):
        load_dataset(config(folder), "train")


def test_a_folder_without_an_image_is_an_error_that_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "tree.csv").write_text(TREE)
    with pytest.raises(SekdError, match=r"no image in .*: expected files that end in \.jpg"):
        load_dataset(config(tmp_path), "train")


def test_photos_have_no_labels_to_ask_about(folder: Path) -> None:
    with pytest.raises(SekdError, match="photos have no labels"):
        load_dataset(config(folder, questions="labels"), "train")
