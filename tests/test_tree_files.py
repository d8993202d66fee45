"""Published biological trees: Newick and Darwin Core."""

from pathlib import Path

import pytest

from sekd.errors import SekdError
from sekd.taxonomy import load_taxonomy

OWLS = {("Strigiformes", "Strigidae", "Bubo bubo"), ("Strigiformes", "Tytonidae", "Tyto alba"), ("Struthioniformes",)}

TAXA = """\
taxonID,parentNameUsageID,scientificName,taxonRank,taxonomicStatus
1,,Animalia,kingdom,accepted
2,1,Aves,class,accepted
3,2,Strigidae,family,accepted
4,3,Striginae,subfamily,accepted
5,4,Bubo,genus,accepted
6,5,Bubo bubo,species,accepted
7,5,Bubo maximus,species,synonym
8,6,Bubo bubo bubo,subspecies,accepted
"""


def write(folder: Path, name: str, content: str) -> Path:
    file = folder / name
    file.write_text(content)
    return file


@pytest.mark.parametrize("suffix", [".nwk", ".newick", ".tre", ".tree"])
def test_a_newick_tree_gives_the_names_from_the_root_down(tmp_path: Path, suffix: str):
    text = "(((Bubo_bubo:1.5)Strigidae,('Tyto alba'[barn owl]:2)Tytonidae)Strigiformes,Struthioniformes);\n"
    assert set(load_taxonomy(write(tmp_path, f"tree{suffix}", text)).leaves) == OWLS


def test_a_newick_root_with_a_name_is_a_level_of_its_own(tmp_path: Path):
    tree = load_taxonomy(write(tmp_path, "tree.nwk", "((owl,lark)Birds,ant)Life;"))
    assert set(tree.leaves) == {("Life", "Birds", "owl"), ("Life", "Birds", "lark"), ("Life", "ant")}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("((owl,lark),ant)Life;", "the node above owl, lark has no name"),
        ("((owl,)Birds,ant)Life;", "has no name"),
        ("((owl,lark)Birds;", "not a Newick tree"),
        ("(a,b)c;(d,e)f;", "holds 2 trees"),
        ("", "holds 0 trees"),
        ("((owl)Birds,(owl)Toys)Life;", "two leaves are called 'owl'"),
    ],
)
def test_a_newick_file_that_names_no_tree_gets_one_sentence(tmp_path: Path, text: str, said: str):
    with pytest.raises(SekdError, match=said) as error:
        load_taxonomy(write(tmp_path, "tree.nwk", text))
    assert "tree.nwk" in str(error.value)


@pytest.mark.parametrize(("name", "separator"), [("taxon.csv", ","), ("Taxon.tsv", "\t"), ("taxon.txt", "\t")])
def test_a_darwin_core_table_gives_every_accepted_species_with_its_ancestors(tmp_path: Path, name: str, separator: str):
    tree = load_taxonomy(write(tmp_path, name, TAXA.replace(",", separator)))
    assert tree.level_names == ("kingdom", "class", "family", "genus", "species")
    assert tree.leaves == (("Animalia", "Aves", "Strigidae", "Bubo", "Bubo bubo"),)


def test_a_darwin_core_table_with_columns_of_higher_ranks_needs_no_ancestors(tmp_path: Path):
    text = (
        "taxonID,kingdom,phylum,class,order,family,genus,scientificName,taxonRank\n"
        '1,Animalia,,Aves,Strigiformes,Strigidae,Bubo,"Bubo bubo",species\n'
        "2,Animalia,,Aves,Strigiformes,Tytonidae,Tyto,Tyto alba,species\n"
        "3,Animalia,,Aves,Strigiformes,Strigidae,,Strigidae,family\n"
    )
    tree = load_taxonomy(write(tmp_path, "taxa.csv", text))
    assert tree.level_names == ("kingdom", "class", "order", "family", "genus", "species")
    assert {leaf[-1] for leaf in tree.leaves} == {"Bubo bubo", "Tyto alba"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("species", "variety"), "no row has taxonRank species"),
        (("8,6,Bubo bubo bubo,subspecies", "8,2,Corvus corax,species"), "Corvus corax has no family"),
    ],
)
def test_a_darwin_core_table_without_whole_paths_says_which_row(tmp_path: Path, change: tuple[str, str], said: str):
    with pytest.raises(SekdError, match=said):
        load_taxonomy(write(tmp_path, "taxon.csv", TAXA.replace(*change)))


def test_a_table_whose_ancestors_form_a_ring_ends(tmp_path: Path):
    text = TAXA.replace("2,1,Aves,class", "2,5,Aves,class")
    assert load_taxonomy(write(tmp_path, "taxon.csv", text)).leaves == (("Aves", "Strigidae", "Bubo", "Bubo bubo"),)


def test_a_table_of_a_users_own_may_be_separated_by_tabs(tmp_path: Path):
    tree = load_taxonomy(write(tmp_path, "tree.tsv", "leaf\torder\tspecies\nowl\tOwls\tBubo bubo\nant\tAnts\n"))
    assert tree.keys == {"owl": ("Owls", "Bubo bubo"), "ant": ("Ants",)}


def test_a_table_without_a_key_a_leaf_is_refused_before_a_leaf_is_lost(tmp_path: Path):
    with pytest.raises(SekdError, match="row 3: 'Owls' is the first cell of two rows"):
        load_taxonomy(write(tmp_path, "tree.csv", "order,family,species\nOwls,a,b\nOwls,c,d\n"))


def test_a_species_that_stands_twice_in_a_darwin_core_table_is_named(tmp_path: Path):
    with pytest.raises(SekdError, match="Bubo bubo is the scientificName of two species"):
        load_taxonomy(write(tmp_path, "taxon.csv", TAXA + "9,5,Bubo bubo,species,accepted\n"))


def test_a_quote_in_a_table_with_tabs_swallows_no_row(tmp_path: Path):
    text = (TAXA + '9,5,Bubo "x,species,accepted\n10,5,Bubo y,species,accepted\n').replace(",", "\t")
    assert len(load_taxonomy(write(tmp_path, "taxon.txt", text)).leaves) == 3


def test_a_tree_in_another_encoding_gets_one_sentence(tmp_path: Path):
    file = tmp_path / "taxon.csv"
    file.write_bytes((TAXA + "9,5,Bubo é,species,accepted\n").encode("latin-1"))
    with pytest.raises(SekdError, match="is not a table in UTF-8"):
        load_taxonomy(file)


def test_a_tree_in_json_may_begin_with_a_byte_order_mark(tmp_path: Path):
    file = tmp_path / "tree.json"
    file.write_text('{"owl": ["Birds", "owl"]}', encoding="utf-8-sig")
    assert load_taxonomy(file).leaves == (("Birds", "owl"),)
