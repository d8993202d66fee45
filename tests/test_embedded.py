"""The embedded world: its taxonomies, its images and its files."""

import json

import numpy as np

from sekd.embedded.kingdoms import IN_DOMAIN, KINGDOMS, LEVELS, NAMES, UNSEEN, VALUES
from sekd.embedded.world import categories, picture, write_world

TREES = list(KINGDOMS.values())


def test_siblings_differ_in_name_and_no_word_stands_twice_in_the_world() -> None:
    words = [word for kingdom in TREES for level in kingdom.names for word in level]
    assert len(words) == len(set(words)) == len(TREES) * sum(NAMES)
    for kingdom in TREES:
        for table in kingdom.tables:
            assert all(len(set(row)) == VALUES for row in table)


def test_a_name_alone_does_not_tell_the_attribute_it_stands_for() -> None:
    for kingdom in TREES:
        for table in kingdom.tables[1:]:
            meanings = [{value for row in table for value in np.flatnonzero(row == name)} for name in range(NAMES[1])]
            assert sum(len(values) > 1 for values in meanings) >= NAMES[1] - 2


def test_kept_kingdoms_share_no_name_with_those_distilled_on() -> None:
    assert set(IN_DOMAIN) | set(UNSEEN) == set(KINGDOMS)
    seen = {word for name in IN_DOMAIN for level in KINGDOMS[name].names for word in level}
    unseen = {word for name in UNSEEN for level in KINGDOMS[name].names for word in level}
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


def test_the_world_is_written_with_inaturalists_tables_and_folders(tmp_path) -> None:
    write_world(tmp_path, images={"val": {"Fauna": 3, "Moth": 2}})
    table = json.loads((tmp_path / "val.json").read_text())
    assert {"images", "annotations", "categories", "licenses"} <= table.keys()
    by_id = {row["id"]: row for row in table["categories"]}
    assert len(by_id) == len(TREES) * VALUES ** len(LEVELS) == len(categories())
    for image, annotation in zip(table["images"], table["annotations"], strict=True):
        category = by_id[annotation["category_id"]]
        assert (tmp_path / image["file_name"]).is_file()
        assert image["file_name"].split("/")[1] == category["image_dir_name"]
    assert [by_id[row["category_id"]]["kingdom"] for row in table["annotations"]] == ["Fauna"] * 3 + ["Moth"] * 2
