"""Every dataset as published: what is read from it, how it is split and cut, and what each fault says."""

import hashlib
import json
import os
import pickle
import random
import re
from collections.abc import Callable, Iterable
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniatures import BIRDS, FOODS, config, inat_categories, write_image, write_json
from real_trees import TREES, needs_trees

from sekd.datasets import Dataset, Example, class_trees, in_share, inat, known_datasets, load_dataset, tables
from sekd.datasets.base import Examples
from sekd.datasets.config import SPLITS, SplitPart
from sekd.datasets.images import open_image
from sekd.datasets.tables import JsonFile
from sekd.embedded.forest import FOREST
from sekd.embedded.kingdoms import IN_DOMAIN, UNSEEN
from sekd.errors import SekdError
from sekd.taxonomy import fold

Load = Callable[..., Dataset]
ALL_AS_TEST = {"train": None, "val": None, "test": "questions.jsonl"}


def test_every_known_dataset_is_a_whole_configuration() -> None:
    assert {"inat", "inat_plant", "cub", "food101", "imagenet_animal", "imagenet_artifact"} < set(known_datasets())
    assert {"folder", "choices", "demo", "demo_flora", "demo_moth"} < set(known_datasets())
    for name in known_datasets():
        loaded = config(name, Path())
        assert loaded.name == name
        assert set(loaded.splits) == set(SPLITS)


def test_the_demo_distils_the_worlds_own_kingdoms_and_leaves_the_others_unseen() -> None:
    assert tuple(config("demo", Path()).within["kingdom"]) == IN_DOMAIN
    for kingdom in UNSEEN:
        assert config(f"demo_{kingdom.lower()}", Path()).within == {"kingdom": [kingdom]}


def test_the_forest_distils_the_worlds_own_trees_and_leaves_the_others_unseen() -> None:
    assert tuple(config("forest", Path()).classes or ()) == FOREST.in_domain
    for tree in FOREST.unseen:
        assert config(f"forest_{tree.lower()}", Path()).classes == [tree]


def test_every_split_of_every_dataset_reads_and_asks(load: Load, name: str) -> None:
    splits = {split: load(name, split) for split in SPLITS}
    for dataset in splits.values():
        assert dataset.examples
        for example in dataset.examples:
            assert open_image(dataset.image_path(example)).size == (12, 10)
            questions = dataset.questions(example)
            assert questions
            assert example.path is not None
            for question in questions:
                assert fold(question.truth_name or "") == fold(example.path[question.depth])
    ids = [{example.id for example in dataset.examples} for dataset in splits.values()]
    assert sum(map(len, ids)) == len(set.union(*ids)), "splits share no image"


def test_inat_reads_its_kingdom_by_name_and_rank(load: Load) -> None:
    animals, plants = load("inat"), load("inat_plant")
    assert len(animals.examples) == 32
    assert len(plants.examples) == 16
    assert {(example.path or ("",))[0] for example in plants.examples} == {"Plantae"}
    by_name = {category["name"]: category for category in inat_categories()}
    for example in animals.examples:
        assert example.path is not None
        category = by_name[example.path[-1]]
        assert list(example.path[:-1]) == [category[rank] for rank in animals.taxonomy.level_names[:-1]]
        assert category["image_dir_name"] in str(example.image)
    levels = [question.level for question in animals.questions(animals.examples[0])]
    assert levels == ["phylum", "class", "order", "family", "genus", "species"]
    # One phylum and class of plants is no choice; two of animals are two options.
    assert plants.questions(plants.examples[0])[0].level == "order"
    assert "level phylum is left out for 16 images: it offers a single name" in plants.notes
    assert "32 questions of level phylum have fewer options" in animals.notes


def test_cub_finds_each_birds_leaf_however_it_is_spelled(load: Load) -> None:
    train, test = load("cub", splits={"train": "train", "val": None, "test": "test"}), load("cub", "test")
    assert (len(train.examples), len(test.examples)) == (40, 20)
    for example in train.examples:
        assert example.path is not None
        key, above = BIRDS[example.image.parts[1]]
        assert example.path == (*above, key)


CROWS = {
    "Loon": ["Loons", "Loon family", "Loon"],
    "Crow": ["Songbirds", "Crows", "Crow"],
    "Jay": ["Songbirds", "Crows", "Jay"],
}


def some_birds(root: Path, names: Iterable[str], tree: dict[str, list[str]], **overrides: Any) -> Dataset:
    for name, number in product(names, range(2)):
        write_image(root / "images" / name / f"{number}.png")
    write_json(root / "tree.json", tree)
    splits = {"train": "images", "val": None, "test": None}
    return load_dataset(config("folder", root, hierarchy="tree.json", splits=splits, **overrides), "train")


def test_images_whose_levels_all_offer_one_name_are_left_out_and_counted(tmp_path: Path) -> None:
    whole = some_birds(tmp_path, CROWS, CROWS)
    assert len(whole.examples) == 6
    assert not any("no level with a choice" in note for note in whole.notes)
    below = some_birds(tmp_path, CROWS, CROWS, skip=1)
    crows = [example for example in whole.examples if "Loon" not in example.id]
    assert list(below.examples) == crows, "the others keep their order"
    assert all(map(below.questions, below.examples))
    assert "2 images have no level with a choice, and are left out" in below.notes
    assert list(some_birds(tmp_path, CROWS, CROWS, skip=1, limit=3).examples) == crows[:3]
    # A descent finds its questions itself and reads no label.
    assert len(some_birds(tmp_path, CROWS, CROWS, skip=1, questions="descent").examples) == 6


def test_a_dataset_without_a_single_question_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SekdError, match=r"none of 2 images has a level with a choice; .*data\.skip \(now 1\)"):
        some_birds(tmp_path, ["Loon"], CROWS, skip=1)


@needs_trees
def test_cubs_loon_is_left_out_below_its_order(tmp_path: Path) -> None:
    tree = json.loads((TREES / "hierarchy_CUB200.json").read_text())
    below, whole = (some_birds(tmp_path, tree, tree, skip=skip) for skip in (1, 0))
    assert len(whole.examples) == 2 * len(tree)
    gone = {example.image.parent.name for example in whole.examples} - {e.image.parent.name for e in below.examples}
    assert "Pacific Loon" in gone
    assert f"{2 * len(gone)} images have no level with a choice, and are left out" in below.notes
    assert all(map(below.questions, below.examples))


def test_food101_leaves_out_the_classes_that_the_tree_does_not_hold(load: Load) -> None:
    dataset = load("food101", "test")
    assert {example.image.parts[1] for example in dataset.examples} == set(FOODS)
    assert "1 classes are not in hierarchy_Food.json and left out: waffles" in dataset.notes
    with pytest.raises(SekdError, match=r"1 of 5 classes have no path in hierarchy_Food.json: waffles"):
        load("food101", partial_hierarchy=False)


def test_imagenet_tells_names_apart_that_two_classes_share(load: Load) -> None:
    animals, artifacts = load("imagenet_animal", "test"), load("imagenet_artifact", "test")
    assert leaves(animals) == {"n01440764": "tench", "n01530575": "brambling", "n02012849": "crane"}
    assert leaves(artifacts) == {"n03126707": "crane", "n03710637": "maillot", "n03710721": "tank suit"}


def test_imagenets_flat_validation_images_are_read_by_their_solution(load: Load, tmp_path: Path) -> None:
    load("imagenet_animal")
    flat, rows = tmp_path / "ILSVRC/Data/CLS-LOC/val", ["ImageId,PredictionString"]
    for number, wnid in enumerate(["n02012849", "n03126707", "n01440764"]):
        write_image(flat / f"ILSVRC2012_val_{number:08d}.JPEG")
        rows.append(f"ILSVRC2012_val_{number:08d},{wnid} 1 2 3 4 {wnid} 5 6 7 8")
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(rows))
    splits = {"train": "train", "val": None, "test": str(flat.relative_to(tmp_path))}
    found = {
        example.image.stem: (example.path or ())[-1]
        for example in load("imagenet_animal", "test", splits=splits).examples
    }
    assert found == {"ILSVRC2012_val_00000000": "crane", "ILSVRC2012_val_00000002": "tench"}


def test_flat_validation_images_that_the_solution_does_not_list_are_counted(load: Load, tmp_path: Path) -> None:
    load("imagenet_animal")
    for stem in ("listed", "stray", "other", os.fsdecode(b"caf\xe9")):
        write_image(tmp_path / "flat" / f"{stem}.JPEG")
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nlisted,n02012849\nother,n03126707")
    dataset = load("imagenet_animal", splits={"train": "flat", "val": None, "test": None})
    assert [example.image.stem for example in dataset.examples] == ["listed"]
    assert "2 images of flat are not in LOC_val_solution.csv and left out" in dataset.notes
    for row in ("listed", "listed,", "listed,n02012849,3"):
        (tmp_path / "LOC_val_solution.csv").write_text(f"ImageId,PredictionString\nother,n03126707 1 2 3 4\n{row}")
        with pytest.raises(SekdError, match=r"LOC_val_solution\.csv, row 3: expected an image and its boxes"):
            load("imagenet_animal", splits={"train": "flat", "val": None, "test": None})


def test_class_folders_in_the_root_itself_are_read_by_shares(load: Load, tmp_path: Path) -> None:
    load("imagenet_animal")
    for folder in (tmp_path / "train").iterdir():
        folder.rename(tmp_path / folder.name)
    (tmp_path / "train").rmdir()
    with pytest.raises(SekdError, match=r"data\.splits\.train=\.@0-90%"):
        load("imagenet_animal")
    splits = {"train": ".@0-90%", "val": ".@90-95%", "test": ".@95-100%"}
    assert set(leaves(load("imagenet_animal", splits=splits))) == {"n01440764", "n01530575", "n02012849"}


def test_a_folder_of_ones_own_takes_a_csv_tree(load: Load) -> None:
    dataset = load("folder", splits={"train": ".", "val": None, "test": None})
    assert len(dataset.examples) == 48
    assert "1 files in the class folders are no images and left out" in dataset.notes
    levels = {question.level for example in dataset.examples for question in dataset.questions(example)}
    assert levels == {"course", "dish", "variety"}


def test_images_that_lie_in_no_class_folder_or_too_deep_are_counted(load: Load, tmp_path: Path) -> None:
    splits = {"train": ".", "val": None, "test": None}
    before = load("folder", splits=splits)
    for file in ("loose.png", "pizza/more/2.png", "pizza/more/still/3.jpg", "pizza/.thumbs/4.png"):
        write_image(tmp_path / file)
    dataset = load("folder", splits=splits)
    assert dataset.identity() == before.identity()
    assert set(dataset.notes) - set(before.notes) == {
        "1 images beside the class folders are left out",
        "2 images in folders within the class folders are left out",
    }


def test_images_whose_names_are_not_utf8_are_counted_in_every_class_folder(tmp_path: Path) -> None:
    latin = os.fsdecode(b"caf\xe9")
    write_image(tmp_path / f"pizza/{latin}.png")
    write_image(tmp_path / f"{latin}/1.png")
    for number in range(2):
        write_image(tmp_path / f"pizza/{number}.png")
    write_json(tmp_path / "tree.json", {name: ["food", name] for name in ("pizza", "caf", "waffles")})
    splits = {"train": ".", "val": None, "test": None}
    dataset = load_dataset(config("folder", tmp_path, hierarchy="tree.json", splits=splits), "train")
    assert {example.id for example in dataset.examples} == {"pizza/0.png", "pizza/1.png"}
    assert "2 images are left out: their names are not UTF-8" in dataset.notes


def test_a_class_folder_that_is_not_utf8_and_has_no_leaf_is_named_as_it_can_be_printed(
    tmp_path: Path,
) -> None:
    folders = ["pizza", "pasta", os.fsdecode(b"caf\xe9")]
    with pytest.raises(SekdError, match=r"1 of 3 classes have no path in tree.json: caf\?"):
        class_folders(tmp_path, folders, ["pizza", "pasta"], partial_hierarchy=False)


def class_folders(root: Path, folders: Iterable[str], keys: Iterable[str], **overrides: Any) -> dict[str, str]:
    """Class folder -> the leaf that it is read as, of a tree with these keys."""
    for folder in folders:
        write_image(root / "classes" / folder / "1.png")
    write_json(root / "tree.json", {key: ["things", f"leaf of {key}"] for key in keys})
    splits = {"train": "classes", "val": None, "test": None}
    overrides = {"hierarchy": "tree.json", "splits": splits, "partial_hierarchy": True, **overrides}
    return leaves(load_dataset(config("folder", root, **overrides), "train"))


def test_class_names_of_any_script_find_their_own_key_alone(tmp_path: Path) -> None:
    found = class_folders(tmp_path, ["苹果", "香蕉"], ["苹果", "橙子", "白菜"])
    assert found == {"苹果": "leaf of 苹果"}
    with pytest.raises(SekdError, match=r"1 of 2 classes have no path in tree.json: 香蕉"):
        class_folders(tmp_path, [], ["苹果", "橙子", "白菜"], partial_hierarchy=False)


@pytest.mark.parametrize(
    ("folder", "key"),
    [
        ("creme_brulee", "Crème brûlée"),
        ("Crème-Brûlée", "creme brulee"),
        ("сладкий_перец", "Сладкий перец"),
        ("STRASSE", "Straße"),
        ("パン-1", "ハン 1"),
        ("सेब_लाल", "साब लाल"),
        ("Chuck_will_widow", "Chuck-will\u2019s-widow"),
    ],
)
def test_accents_and_punctuation_part_no_names_but_letters_and_vowels_do(tmp_path: Path, folder: str, key: str) -> None:
    found = class_folders(tmp_path, [folder, "other"], [key, "other"])
    assert (folder in found) == (key not in ("ハン 1", "साब लाल"))


def test_a_name_without_a_letter_and_one_that_fits_two_keys_find_no_leaf(tmp_path: Path) -> None:
    keys = ["!!", "Nelson's Sparrow", "nelson-sparrow", "other"]
    assert set(class_folders(tmp_path, ["--", "Nelson_Sparrow", "other"], keys)) == {"other"}


def test_names_in_ascii_are_simplified_as_they_always_were() -> None:
    def as_before(name: str) -> str:
        return " ".join(re.findall(r"[a-z0-9]+", name.lower().replace("'s", "").replace("'", "")))

    rng = random.Random(0)
    for _ in range(2000):
        name = "".join(chr(rng.randrange(128)) for _ in range(12)) + rng.choice(["'s", "'S x", "_", ""])
        assert class_trees._loosened(name) == as_before(name), repr(name)


def test_choices_are_taken_as_given(load: Load, tmp_path: Path) -> None:
    dataset = load("choices", "test", splits=ALL_AS_TEST)
    rows = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    by_image = {row["image"].split("CUB_200_2011/")[1]: row for row in rows}
    assert len(dataset.examples) == len(rows)
    for example in dataset.examples:
        row = by_image[str(example.image)]
        for level, question in enumerate(dataset.questions(example), start=1):
            assert list(question.options) == row[f"choices_level{level}"]
            assert question.truth_name == row[f"level{level}"]


def test_an_image_that_is_asked_about_twice_keeps_two_ids(load: Load, tmp_path: Path) -> None:
    load("choices")
    file = tmp_path / "questions.jsonl"
    file.write_text(file.read_text().splitlines()[0] + "\n" + file.read_text().splitlines()[0])
    dataset = load("choices", "test", splits=ALL_AS_TEST)
    assert sorted(example.id.partition("#")[2] for example in dataset.examples) == ["", "2"]


def test_the_lines_of_one_image_are_in_one_share(load: Load, tmp_path: Path) -> None:
    load("choices")
    file = tmp_path / "questions.jsonl"
    file.write_text(file.read_text() * 3)
    splits = {"train": "questions.jsonl@0-50%", "val": None, "test": "questions.jsonl@50-100%"}
    shares = [load("choices", split, splits=splits).examples for split in ("train", "test")]
    images = [{example.image for example in share} for share in shares]
    assert all(images)
    assert not images[0] & images[1]
    assert sum(map(len, shares)) == 3 * len(images[0] | images[1])


def test_lines_without_a_question_are_left_out(load: Load, tmp_path: Path) -> None:
    load("choices")
    file = tmp_path / "questions.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()[:3]]
    rows[1] |= {f"choices_level{level}": None for level in range(1, 5)}
    file.write_text("\n".join(map(json.dumps, rows)))
    dataset = load("choices", "test", splits=ALL_AS_TEST)
    assert len(dataset.examples) == 2
    assert all(map(dataset.questions, dataset.examples))
    assert "1 images have no level with a choice, and are left out" in dataset.notes


def test_null_levels_and_skipped_ones_are_not_asked_about(load: Load, tmp_path: Path) -> None:
    load("choices")
    file = tmp_path / "questions.jsonl"
    row = json.loads(file.read_text().splitlines()[0]) | {"level3": None, "choices_level3": None}
    file.write_text(json.dumps(row))
    dataset = load("choices", "test", splits=ALL_AS_TEST, skip=1)
    assert [question.level for question in dataset.questions(dataset.examples[0])] == ["family", "species"]


def test_a_smaller_limit_takes_the_first_of_a_larger_one(load: Load) -> None:
    ids = {limit: [example.id for example in load("inat", limit=limit).examples] for limit in (5, 20, None)}
    assert ids[5] == ids[20][:5]
    assert ids[20] == ids[None][:20]
    assert ids[20] != [example.id for example in load("inat", limit=20, seed=1).examples]
    assert ids[None] != sorted(ids[None])


def test_classes_choose_images_by_any_name_of_their_path(load: Load) -> None:
    birds = load("inat", classes=["chordata"])
    assert {(example.path or ("", ""))[1] for example in birds.examples} == {"Chordata"}
    # Distractors still come from the whole tree.
    assert set(birds.questions(birds.examples[0])[0].options) == {"Chordata", "Arthropoda"}
    with pytest.raises(SekdError, match="holds no mollusca"):
        load("inat", classes=["Mollusca"])


def test_shares_of_one_file_are_disjoint_stable_and_sized() -> None:
    examples = [Example(f"images/{i}.jpg", Path(f"images/{i}.jpg"), ("a",)) for i in range(5000)]
    shares = [in_share(examples, SplitPart("f", low, high)) for low, high in ((0, 10), (10, 40), (40, 100))]
    assert sorted(chain.from_iterable(shares), key=lambda each: each.id) == sorted(examples, key=lambda each: each.id)
    assert [len(share) / 5000 for share in shares] == pytest.approx([0.1, 0.3, 0.6], abs=0.02)
    assert set(in_share(examples[:1000], SplitPart("f", 0, 10))) <= set(shares[0]), "images added later move none"


def test_identity_follows_the_items_and_the_questions_and_not_the_place(load: Load, tmp_path: Path) -> None:
    dataset = load("inat", limit=10)
    same = load("inat", limit=10, missing_share=0.5)
    assert dataset.identity() == same.identity()
    changes: list[dict[str, Any]] = [{"limit": 11}, {"seed": 1}, {"distractors": "similar"}, {"options": 3}]
    changes += [{"classes": ["Chordata"]}, {"splits": {"train": "val.json", "val": None, "test": None}}]
    digests = [json.dumps(load("inat", **{"limit": 10, **change}).identity()) for change in changes]
    assert len({json.dumps(dataset.identity()), *digests}) == len(changes) + 1
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    assert load_dataset(config("inat", moved, limit=10), "train").identity() == dataset.identity()


def leaves(dataset: Dataset) -> dict[str, str]:
    """Class folder -> last name of the path."""
    return {example.image.parent.name: (example.path or ("",))[-1] for example in dataset.examples}


def test_columns_are_the_examples_they_were_made_of_in_memory_and_in_a_file(
    load: Load, tmp_path: Path, name: str
) -> None:
    rows = list(load(name).examples)
    examples = Examples.of(iter(rows))
    shared = pickle.loads(pickle.dumps(examples.saved(tmp_path / "columns")))
    lines = [[each.id, each.path, [vars(question) for question in each.questions or ()]] for each in rows]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    for columns in (examples, shared):
        assert list(columns) == columns[:] == rows
        assert (columns[-1], columns[1:9:3]) == (rows[-1], rows[1:9:3])
        assert columns.digest() == hashlib.sha256(text.encode()).hexdigest()
        assert list(columns.take(np.array([3, 1]))) == [rows[3], rows[1]]


@pytest.mark.parametrize("size", [1, 7, 60, 10**6])
@pytest.mark.parametrize("space", [None, 1])
def test_a_long_list_is_read_in_pieces_that_lose_and_repeat_no_object(
    tmp_path: Path, size: int, space: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "PIECE", size)
    images = [{"id": n, "file_name": 'a}, {"b": [{' * (n % 3), "more": {"x": [{}, {"y": "}"}]}} for n in range(20)]
    whole = {"images": images, "annotations": [], "categories": []}
    (tmp_path / "set.json").write_text(json.dumps(whole, indent=space), encoding="utf-8-sig")
    file = JsonFile(tmp_path / "set.json")
    rows = [row for piece in file.rows(file.read(inat.SplitFile).images, inat.Image) for row in piece]
    assert [(row.id, row.file_name) for row in rows] == [(each["id"], each["file_name"]) for each in images]
