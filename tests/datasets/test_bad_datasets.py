"""Bad input: each fault gets one clear error that names the file and what to do, before anything expensive starts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sekd.datasets import Dataset
from sekd.datasets.images import open_image, undecodable
from sekd.errors import SekdError

Load = Callable[..., Dataset]


def test_absent_images_are_counted_and_stop_the_run_past_the_set_share(load: Load, tmp_path: Path) -> None:
    whole = load("inat")
    gone = whole.examples[0].image
    (tmp_path / gone).unlink()
    with pytest.raises(SekdError, match=rf"1 of 32 listed images are absent.*{gone.name}.*data\.missing_share"):
        load("inat")
    rest = load("inat", missing_share=0.04)
    assert len(rest.examples) == 31
    assert any("1 of 32 listed images are absent" in note for note in rest.notes)


def truncate(root: Path) -> None:
    text = (root / "train_mini.json").read_text()
    (root / "train_mini.json").write_text(text[: len(text) // 2])


def edit(file: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    def edited(root: Path) -> None:
        table = json.loads((root / file).read_text())
        change(table)
        (root / file).write_text(json.dumps(table))

    return edited


def remove(*files: str) -> Callable[[Path], None]:
    return lambda root: [(root / file).unlink() for file in files] and None


def rewrite_line(file: str, old: str, new: str) -> Callable[[Path], None]:
    return lambda root: (root / file).write_text((root / file).read_text().replace(old, new, 1)) and None


@pytest.mark.parametrize(
    ("name", "spoil", "overrides", "said"),
    [
        ("inat", truncate, {}, r"train_mini.json is not valid JSON.*cut off"),
        ("inat", remove("train_mini.json"), {}, r"train_mini.json cannot be read.*data\.root"),
        ("inat", edit("train_mini.json", lambda t: t.pop("annotations")), {}, "expected an object with images"),
        (
            "inat",
            edit("train_mini.json", lambda t: t["categories"][3].update(order="")),
            {},
            r"category 3 \(.*\) has no path: its order is missing",
        ),
        ("inat", edit("train_mini.json", lambda t: t["categories"][3].pop("genus")), {}, "its genus is missing"),
        ("inat", edit("train_mini.json", lambda t: t["annotations"][0].update(category_id=999)), {}, "category 999"),
        ("inat", None, {"within": {"kingdom": ["Fungi"]}}, "no category has kingdom in Fungi; it holds Animalia"),
        ("inat", None, {"root": "/nowhere/at/all"}, r"the folder /nowhere/at/all does not exist; set data\.root"),
        ("inat", None, {"format": "coco"}, "format 'coco' is unknown: choose inat, cub"),
        ("inat", None, {"distractors": "hard"}, "choose random or similar"),
        ("inat", None, {"options": 1}, "2 to 26 options"),
        ("inat", None, {"limit": 0}, "at least one image"),
        ("inat", None, {"splits": {"train": None}}, "has no split 'train': it has val, test"),
        ("inat", None, {"splits": {"train": "val.json@50-100%"}}, "splits train .* share images"),
        ("inat", None, {"splits": {"train": "val.json@90-10%"}}, "expected a file or part, or a share"),
        ("cub", None, {"within": {"order": ["Passeriformes"]}}, r"data\.classes"),
        ("cub", None, {"splits": {"train": "val"}}, "parts train and test"),
        ("cub", remove("classes.txt"), {}, "classes.txt cannot be read"),
        ("cub", rewrite_line("image_class_labels.txt", "3 1\n", ""), {}, "image 3 of images.txt is missing"),
        ("cub", rewrite_line("images.txt", "_0003_4.jpg", "_0003_5.jpg"), {}, "listed images are absent"),
        ("cub", remove("hierarchy_CUB200.json"), {}, r"none at .*set data\.hierarchy"),
        ("cub", None, {"hierarchy": None}, r"set data\.hierarchy"),
        ("cub", edit("hierarchy_CUB200.json", lambda t: t.pop("Sayornis")), {}, "1 of 5 classes have no path.*103"),
        (
            "cub",
            edit("hierarchy_CUB200.json", lambda t: t.update(x=["Phoebastria", "Diomedeidae"])),
            {},
            "hierarchy_CUB200.json: the tree has a cycle",
        ),
        ("food101", rewrite_line("meta/train.txt", "/", " "), {}, "expected lines like apple_pie/1005649"),
        ("food101", rewrite_line("meta/train.txt", "pizza", "pasta"), {}, "images of pasta"),
        ("imagenet_animal", remove("LOC_synset_mapping.txt"), {}, "LOC_synset_mapping.txt cannot be read"),
        ("folder", None, {"splits": {"train": "nowhere"}}, "expected a folder of class folders"),
        (
            "choices",
            rewrite_line("questions.jsonl", '"level2": "diomedeidae"', '"level2": "corvidae"'),
            {},
            r"questions.jsonl, line 1: the truth of level 2, 'corvidae', is not among its choices",
        ),
        (
            "choices",
            None,
            {"options": 3},
            r"questions.jsonl, line 1: level \d has 4 choices; set data\.options=4",
        ),
        ("choices", rewrite_line("questions.jsonl", '{"image"', '{"image'), {}, "line 1 is not valid JSON"),
        ("choices", rewrite_line("questions.jsonl", '"image"', '"picture"'), {}, "line 1: expected an object"),
        ("choices", None, {"recorded_root": "/someone/else"}, r"does not lie below /someone/else.*data\.recorded_root"),
        ("choices", None, {"splits": {"train": "none.jsonl"}}, "none.jsonl cannot be read"),
    ],
)
def test_bad_input_gets_one_clear_error(
    load: Load, tmp_path: Path, name: str, spoil: Callable[[Path], None] | None, overrides: dict[str, Any], said: str
) -> None:
    load(name)
    if spoil:
        spoil(tmp_path)
    with pytest.raises(SekdError, match=said) as error:
        load(name, **overrides)
    assert "\n" not in str(error.value)


def test_images_that_lie_elsewhere_say_which_setting_maps_them(load: Load, tmp_path: Path) -> None:
    load("choices")
    (tmp_path / "images").rename(tmp_path / "pictures")
    with pytest.raises(SekdError, match=r"/someone/elses/.*set data\.recorded_root"):
        load("choices")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0 cut"])
def test_an_image_that_does_not_decode_is_named_at_use_and_before(load: Load, content: bytes) -> None:
    dataset = load("inat")
    files = [dataset.image_path(example) for example in dataset.examples]
    bad = files[3]
    bad.write_bytes(content)
    with pytest.raises(SekdError, match=f"{bad.name} does not decode"):
        open_image(bad)
    assert list(undecodable(files)) == [bad]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_cut_off_image_is_found_before_it_is_used(tmp_path: Path, suffix: str) -> None:
    for name in ("whole", "cut"):
        Image.effect_noise((64, 64), 80).save(tmp_path / f"{name}.{suffix}")
    data = (tmp_path / f"cut.{suffix}").read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(data[: len(data) // 2])
    assert list(undecodable([tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"])) == [tmp_path / f"cut.{suffix}"]


def test_an_absent_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(SekdError, match=r"gone\.jpg is absent"):
        open_image(tmp_path / "gone.jpg")
