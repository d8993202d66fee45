"""The embedded world: its taxonomies, its images and its files."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from sekd.datasets import DataConfig, load_dataset
from sekd.embedded.forest import FOREST
from sekd.embedded.kingdoms import KINGDOMS, LEVELS, VALUES
from sekd.embedded.trees import World, leaves
from sekd.embedded.world import WORLDS, categories_by_path, picture, sample, write_world

every_world = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


@every_world
def test_siblings_differ_in_name_and_no_word_stands_twice_in_a_world(world: World) -> None:
    words = [word for tree in world.trees.values() for level in tree.names for word in level]
    assert len(words) == len(set(words))
    for tree in world.trees.values():
        for table, children in zip(tree.tables, tree.branching, strict=True):
            assert all(len(set(row)) == children for row in table)


@every_world
def test_a_name_alone_does_not_tell_the_attribute_it_stands_for(world: World) -> None:
    for tree in world.trees.values():
        for table, names in zip(tree.tables[1:], tree.names[1:], strict=True):
            meanings = [np.unique(np.argwhere(table == name)[:, 1]) for name in range(len(names))]
            assert sum(len(values) > 1 for values in meanings) >= len(names) - 2
            if tree.balanced:
                assert all(len(set(column)) == len(column) for column in table.T.tolist())


@every_world
def test_unseen_trees_share_no_name_with_those_distilled_on(world: World) -> None:
    assert {*world.in_domain, *world.unseen} == set(world.trees)
    seen = {word for name in world.in_domain for level in world.trees[name].names for word in level}
    unseen = {word for name in world.unseen for level in world.trees[name].names for word in level}
    assert not seen & unseen


def test_the_same_seed_draws_the_same_picture_and_another_attribute_another() -> None:
    kingdom = KINGDOMS["Moth"]

    def drawn(values: list[int]) -> bytes:
        return picture(kingdom, np.array(values), np.random.default_rng(5)).tobytes()

    assert drawn([0, 1, 2, 3]) == drawn([0, 1, 2, 3])
    for level in range(len(LEVELS)):
        other = [0, 1, 2, 3]
        other[level] = (other[level] + 1) % VALUES
        assert drawn(other) != drawn([0, 1, 2, 3])


def test_the_demo_draws_and_names_what_its_base_was_trained_on() -> None:
    rng = np.random.default_rng(5)
    pixels = [picture(tree, values, rng).tobytes() for tree in KINGDOMS.values() for values in sample(tree, rng, 4)]
    assert hashlib.sha256(b"".join(pixels)).hexdigest()[:16] == "e3a4493a2a4a0627"
    table = json.dumps([*categories_by_path().values()], sort_keys=True)
    assert hashlib.sha256(table.encode()).hexdigest()[:16] == "b6e6c94f3779cab4"


def test_the_world_of_many_trees_has_trees_of_every_depth_and_four_unseen() -> None:
    depths = {name: {len(tree.path(values)) for values in leaves(tree)} for name, tree in FOREST.trees.items()}
    assert len(depths) >= 12
    assert sorted(max(depths[name]) for name in FOREST.unseen) == [3, 4, 5, 6]
    assert {max(depths[name]) for name in FOREST.in_domain} == {3, 4, 5, 6}
    assert depths["Boat"] == {2, 4}, "a boat without a sail has no family"
    assert depths["Bird"] == {3, 5}
    assert len({tuple(name for name, _ in tree.attributes) for tree in FOREST.trees.values()}) == len(depths)


def test_every_attribute_of_every_tree_is_visible_at_the_size_the_model_sees() -> None:
    for tree in FOREST.trees.values():
        deep = next(values for values in reversed([*leaves(tree)]) if len(tree.path(values)) == len(tree.branching))

        def seen(values: np.ndarray) -> np.ndarray:
            image = picture(tree, values, np.random.default_rng(1))  # noqa: B023
            return np.asarray(image.resize((48, 48), Image.Resampling.BICUBIC)).astype(int)

        for level, children in enumerate(tree.branching):
            for value in range(children):
                other = deep.copy()
                other[level] = value
                if value != deep[level]:
                    changed = (np.abs(seen(other) - seen(deep)).max(2) > 40).sum()
                    assert changed > 25, f"{tree.name}: {tree.attributes[level]}"


def test_the_world_of_many_trees_is_read_as_class_folders_with_a_tree_of_unequal_depth(tmp_path) -> None:
    write_world(tmp_path, world=FOREST, images={"val": {"Boat": 12, "Robot": 3, "Kite": 2}})
    splits = {"train": None, "val": "val", "test": None}
    config = DataConfig(
        "forest", "folder", str(tmp_path), splits, hierarchy="tree.csv", skip=1, classes=["Boat", "Robot"]
    )
    dataset = load_dataset(config, "val")
    asked = [[question.level for question in dataset.questions(example)] for example in dataset.examples]
    assert {len(levels) for levels in asked} == {2, 4, 6}
    assert all(levels == list(FOREST.levels[: len(levels)]) for levels in asked)
    assert {len(question.options) for question in dataset.questions(dataset.examples[0])} == {4}


def test_the_world_is_written_with_inaturalists_tables_and_folders(tmp_path) -> None:
    write_world(tmp_path, images={"val": {"Fauna": 3, "Moth": 2}})
    table = json.loads((tmp_path / "val.json").read_text())
    assert {"images", "annotations", "categories", "licenses"} <= table.keys()
    by_id = {row["id"]: row for row in table["categories"]}
    assert len(by_id) == len(KINGDOMS) * VALUES ** len(LEVELS) == len(categories_by_path())
    for image, annotation in zip(table["images"], table["annotations"], strict=True):
        category = by_id[annotation["category_id"]]
        assert (tmp_path / image["file_name"]).is_file()
        assert image["file_name"].split("/")[1] == category["image_dir_name"]
    assert [by_id[row["category_id"]]["kingdom"] for row in table["annotations"]] == ["Fauna"] * 3 + ["Moth"] * 2
