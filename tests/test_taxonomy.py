"""The tree: identity by path, comparison without case, and the published trees if the files are present."""

import json
from pathlib import Path

import pytest
from real_trees import TREES, needs_trees

from sekd.errors import SekdError
from sekd.taxonomy import Taxonomy, load_taxonomy

BIRDS = [
    ["Birds", "Flycatchers", "Sayornis", "Sayornis"],
    ["Birds", "Flycatchers", "Tyrannus", "Gray Kingbird"],
    ["Birds", "Crows"],
    ["Insects", "Flycatchers", "Robber"],
]


def test_a_name_may_stand_at_two_levels_twice_in_a_path_and_under_two_parents() -> None:
    tree = Taxonomy(BIRDS)
    assert tree.nodes(1) == (("Birds", "Crows"), ("Birds", "Flycatchers"), ("Insects", "Flycatchers"))
    assert tree.nodes(3, ["Birds"]) == (tuple(BIRDS[0]), tuple(BIRDS[1]))
    assert tree.distinct_names(1) == 2
    assert tree.depth == 4


def test_nodes_do_not_depend_on_the_order_of_the_paths_given() -> None:
    forward, backward = Taxonomy(BIRDS), Taxonomy(BIRDS[::-1])
    assert all(forward.nodes(depth) == backward.nodes(depth) for depth in range(4))


def test_names_compare_without_case_and_keep_the_spelling_met_first() -> None:
    tree = Taxonomy([["Aves", "Corvidae"], ["aves ", "Paridae"]])
    assert tree.nodes(0) == (("Aves",),)
    assert tree.path(["AVES", "paridae"]) == ("Aves", "Paridae")


def test_a_level_without_a_name_is_called_by_its_number() -> None:
    tree = Taxonomy(BIRDS, level_names=["order", "family"])
    assert [tree.level_name(depth) for depth in range(4)] == ["order", "family", "level 3", "level 4"]


def test_nodes_below_a_root_are_those_whose_path_begins_with_it() -> None:
    tree = Taxonomy(BIRDS)
    for root in [(), ("Birds",), ("birds", "flycatchers"), ("Birds", "Crows"), ("Nothing",)]:
        for depth in range(6):
            expected = {
                tuple(path[: depth + 1])
                for path in BIRDS
                if len(path) > depth >= len(root) - 1
                and [name.lower() for name in path[: len(root)]] == [*map(str.lower, root)]
            }
            assert set(tree.nodes(depth, root) if depth < tree.depth else ()) == expected, (root, depth)


def test_a_leaf_may_be_called_otherwise_by_its_dataset(tmp_path: Path) -> None:
    file = tmp_path / "tree.json"
    file.write_text(json.dumps({"Nelson's Sparrow": ["Birds", "Nelson's sharp-tailed Sparrow"]}))
    assert load_taxonomy(file).keys == {"nelson's sparrow": ("Birds", "Nelson's sharp-tailed Sparrow")}


def test_keys_of_one_leaf_may_differ_in_case_alone(tmp_path: Path) -> None:
    file = tmp_path / "tree.json"
    file.write_text(json.dumps({"Apple": ["Fruit", "apple"], "apple": ["fruit", "Apple"]}))
    assert load_taxonomy(file).keys == {"apple": ("Fruit", "apple")}


def test_two_leaves_of_one_name_are_no_fault_where_no_keys_are_given() -> None:
    assert len(Taxonomy([["Birds", "Crane"], ["Machines", "crane"]]).leaves) == 2


def test_a_csv_tree_names_its_levels_and_may_have_unequal_depths(tmp_path: Path) -> None:
    file = tmp_path / "tree.csv"
    file.write_text("class,order,family,species\nrobin,Birds,Thrushes,Robin\nant,Insects,,\n")
    tree = load_taxonomy(file)
    assert tree.level_names == ("order", "family", "species")
    assert tree.keys == {"robin": ("Birds", "Thrushes", "Robin"), "ant": ("Insects",)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": ["x", "y"', "not valid JSON"),
        ("[1, 2]", "expected an object"),
        ('{"a": []}', "leaf 'a' has no path"),
        ('{"a": null}', "leaf 'a' has no path"),
        ('{"a": ["x", ""]}', "leaf 'a' has no path"),
        ('{"a": "x"}', "leaf 'a' has no path"),
        ("{}", "holds no path"),
        ('{"a": ["x", "y", "a"], "b": ["y", "x", "b"]}', "has a cycle: 'y' stands above 'x'"),
        ('{"a": ["x", "y", "X", "a"]}', "has a cycle"),
        ('{"Apple": ["g"], "Apple": ["h"]}', r"tree.json: the key 'Apple' stands there twice"),
        ('{"Apple": ["g"], "apple": ["k"]}', "key 'Apple' stands for g and, in another case, for k"),
    ],
)
def test_a_bad_tree_gets_one_error_that_names_the_file(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "tree.json"
    file.write_text(content)
    with pytest.raises(SekdError, match=said) as error:
        load_taxonomy(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("row", ["robin", "robin,,Thrushes", "robin,Birds,Thrushes,Robin,more"])
def test_a_csv_row_without_a_whole_path_is_named(tmp_path: Path, row: str) -> None:
    file = tmp_path / "tree.csv"
    file.write_text(f"class,order,family,species\n{row}\n")
    with pytest.raises(SekdError, match=r"tree.csv, row 2: leaf 'robin' has no whole path"):
        load_taxonomy(file)


def test_two_csv_rows_whose_keys_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "tree.csv"
    file.write_text("class,order,species\nRobin,Birds,Robin\nrobin,Toys,robin\n")
    with pytest.raises(SekdError, match=r"tree.csv: key 'Robin' stands for Birds > Robin and, in another case,"):
        load_taxonomy(file)


def test_an_absent_tree_says_which_setting_names_it(tmp_path: Path) -> None:
    with pytest.raises(SekdError, match=r"data\.hierarchy"):
        load_taxonomy(tmp_path / "none.json")


def test_a_path_within_the_skipped_levels_is_an_error() -> None:
    with pytest.raises(SekdError, match="ends within the 2 levels"):
        Taxonomy(BIRDS, skip=2)


@needs_trees
@pytest.mark.parametrize(
    ("name", "leaves", "depths"),
    [("CUB200", 200, {4}), ("Food", 84, {3, 4, 5}), ("Inat_animal", 5388, {7}), ("Inat_plantae", 4271, {7})],
)
def test_the_published_trees_load(name: str, leaves: int, depths: set[int]) -> None:
    tree = load_taxonomy(TREES / f"hierarchy_{name}.json")
    assert len(tree.leaves) == len(tree.keys) == leaves
    assert {len(leaf) for leaf in tree.leaves} == depths
