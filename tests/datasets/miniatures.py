"""Every dataset in small, in exactly the layout that its authors publish; and the configuration that reads it.

Each maker writes a folder and returns the overrides of ``conf/data/<name>.yaml`` that it needs.
"""

import json
from collections.abc import Callable, Mapping
from functools import cache
from io import BytesIO
from itertools import chain, product
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from sekd.datasets import DataConfig

CONF = Path(__file__).parents[2] / "conf"
RANKS = ("kingdom", "phylum", "class", "order", "family", "genus")
BIRDS = {
    "001.Black_footed_Albatross": ("Black-footed Albatross", ["Procellariiformes", "Diomedeidae", "Phoebastria"]),
    "022.Chuck_will_Widow": ("Chuck-will's-widow", ["Caprimulgiformes", "Caprimulgidae", "Antrostomus"]),
    "103.Sayornis": ("Sayornis", ["Passeriformes", "Tyrannidae", "Sayornis"]),
    "126.Nelson_Sharp_tailed_Sparrow": (
        "Nelson's Sharp-tailed Sparrow",
        ["Passeriformes", "Passerellidae", "Ammospiza"],
    ),
    "005.Crested_Auklet": ("Crested Auklet", ["Charadriiformes", "Alcidae", "Aethia"]),
}
FOODS = {
    "apple_pie": ["food", "desserts", "pies", "apple pie"],
    "caesar_salad": ["food", "appetizers", "caesar salad"],
    "creme_brulee": ["food", "desserts", "custards", "french custards", "creme brulee"],
    "pizza": ["food", "main dishes", "pizza"],
}
# The last two names stand for a bird and for a machine, and for a garment and a kind of it.
SYNSETS = {
    "n01440764": "tench, Tinca tinca",
    "n01530575": "brambling, Fringilla montifringilla",
    "n02012849": "crane",
    "n03126707": "crane",
    "n03710637": "maillot",
    "n03710721": "maillot, tank suit",
}
ANIMALS = {
    "tench": ["animal", "fish", "tench"],
    "brambling": ["animal", "bird", "finch", "brambling"],
    "crane": ["animal", "bird", "wading bird", "crane"],
}
ARTIFACTS = {
    "crane": ["artifact", "device", "crane"],
    "maillot": ["artifact", "clothing", "maillot"],
    "maillot, tank suit": ["artifact", "clothing", "swimsuit", "maillot", "tank suit"],
}


def config(name: str, folder: Path, **overrides: Any) -> DataConfig:
    """``conf/data/<name>.yaml``, as Hydra composes it, over a folder."""
    typed = OmegaConf.merge(OmegaConf.structured(DataConfig), composed(name), {"root": str(folder), **overrides})
    loaded = OmegaConf.to_object(typed)
    assert isinstance(loaded, DataConfig)
    return loaded


@cache
def composed(name: str) -> Any:
    with initialize_config_dir(str(CONF), version_base=None):
        return compose(overrides=[f"+data={name}"]).data


def write_image(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(shade % 4, path.suffix.lower()))


@cache
def encoded(shade: int, suffix: str) -> bytes:
    stream = BytesIO()
    Image.new("RGB", (12, 10), (60 * shade, 90, 120)).save(stream, {".png": "PNG"}.get(suffix, "JPEG"))
    return stream.getvalue()


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def inat_categories() -> list[dict[str, Any]]:
    """Two phyla of animals and one of plants, each of one class with two orders, families and genera of two species."""
    rows = []
    for kingdom, phylum in (("Animalia", "Chordata"), ("Animalia", "Arthropoda"), ("Plantae", "Tracheophyta")):
        for digits in product("01", repeat=4):
            names = [f"{rank[:2]}{phylum[:3]}{''.join(digits[:i])}" for i, rank in enumerate(RANKS[2:])]
            epithet = f"sp{''.join(digits)}"
            ranks = dict(zip(RANKS, [kingdom, phylum, *names], strict=True))
            name = f"{names[-1]} {epithet}"
            number = len(rows)
            rows.append(
                {
                    "id": number,
                    "name": name,
                    "common_name": f"Common {number}",
                    "supercategory": "Birds" if kingdom == "Animalia" else "Plants",
                    **ranks,
                    "specific_epithet": epithet,
                    "image_dir_name": "_".join([f"{number:05d}", *ranks.values(), epithet]),
                }
            )
    return rows


def inat(root: Path) -> dict[str, Any]:
    categories = inat_categories()
    for split, images_each in (("train_mini", 1), ("val", 2)):
        images, annotations = [], []
        for category, copy in product(categories, range(images_each)):
            number = len(images) + (100_000 if split == "val" else 0)
            file = f"{split}/{category['image_dir_name']}/{copy}-{number}.jpg"
            write_image(root / file, number)
            images.append(
                {
                    "id": number,
                    "width": 12,
                    "height": 10,
                    "file_name": file,
                    "license": 0,
                    "rights_holder": "someone",
                    "date": "2020-07-11 00:00:00+00:00",
                    "latitude": 45.1,
                    "longitude": 9.2,
                    "location_uncertainty": 58,
                }
            )
            annotations.append({"id": number, "image_id": number, "category_id": category["id"]})
        table = {"info": {"year": 2021}, "images": images, "categories": categories, "annotations": annotations}
        write_json(root / f"{split}.json", table | {"licenses": []})
    return {}


def cub(root: Path) -> dict[str, Any]:
    lines: dict[str, list[str]] = {name: [] for name in ("images", "image_class_labels", "train_test_split", "classes")}
    for number, folder in enumerate(BIRDS, start=1):
        lines["classes"].append(f"{number} {folder}")
        for copy in range(12):
            image = len(lines["images"]) + 1
            file = f"{folder}/{folder.split('.')[1]}_{copy:04d}_{image}.jpg"
            write_image(root / "images" / file, image)
            lines["images"].append(f"{image} {file}")
            lines["image_class_labels"].append(f"{image} {number}")
            lines["train_test_split"].append(f"{image} {int(copy < 8)}")
    for name, content in lines.items():
        (root / f"{name}.txt").write_text("\n".join(content) + "\n")
    write_json(root / "hierarchy_CUB200.json", {key: [*above, key] for key, above in BIRDS.values()})
    return {}


def food101(root: Path) -> dict[str, Any]:
    classes = [*FOODS, "waffles"]  # one class more than the tree holds, as published
    listed: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for name, copy in product(classes, range(20)):
        entry = f"{name}/{1000 + copy}"
        write_image(root / "images" / f"{entry}.jpg", copy)
        listed["train" if copy < 15 else "test"].setdefault(name, []).append(entry)
    for split, by_class in listed.items():
        write_json(root / "meta" / f"{split}.json", by_class)
        (root / "meta" / f"{split}.txt").write_text("\n".join(chain.from_iterable(by_class.values())))
    (root / "meta/classes.txt").write_text("\n".join(classes))
    (root / "meta/labels.txt").write_text("\n".join(name.replace("_", " ").title() for name in classes))
    write_json(root / "hierarchy_Food.json", {path[-1]: path for path in FOODS.values()})
    return {}


def imagenet(root: Path) -> dict[str, Any]:
    (root / "LOC_synset_mapping.txt").parent.mkdir(parents=True, exist_ok=True)
    (root / "LOC_synset_mapping.txt").write_text("".join(f"{wnid} {names}\n" for wnid, names in SYNSETS.items()))
    for wnid in SYNSETS:
        for copy in range(20):
            write_image(root / "train" / wnid / f"{wnid}_{copy}.JPEG", copy)
        for copy in range(3):
            write_image(root / "val" / wnid / f"ILSVRC2012_val_{SYNSETS[wnid][:3]}{wnid}{copy}.JPEG", copy)
    write_json(root / "hierarchy_Imagenet_animal.json", ANIMALS)
    write_json(root / "hierarchy_Imagenet_artifact.json", ARTIFACTS)
    return {}


def folder(root: Path) -> dict[str, Any]:
    for name, copy in product(FOODS, range(12)):
        write_image(root / name / f"{copy}.png", copy)
    (root / "apple_pie/notes.txt").write_text("not an image")
    depth = max(map(len, FOODS.values()))
    rows = [[name, *path, *[""] * (depth - len(path))] for name, path in FOODS.items()]
    header = ["class", "kind", "course", "dish", "variety", "special"]
    (root / "tree.csv").write_text("\n".join(",".join(row) for row in [header, *rows]))
    return {"hierarchy": "tree.csv", "skip": 1}


def choices(root: Path) -> dict[str, Any]:
    recorded, rows = "/someone/elses/dataset/CUB_200_2011", []
    for folder_name, (key, above) in BIRDS.items():
        for copy in range(8):
            file = f"images/{folder_name}/{copy}.jpg"
            write_image(root / file, copy)
            row: dict[str, Any] = {"image": f"{recorded}/{file}", "label": key, "split": "test"}
            for level, name in enumerate([*above, key], start=1):
                wrong = [path[level - 1] for path in [[*a, k] for k, a in BIRDS.values()] if path[level - 1] != name]
                offered = [*dict.fromkeys(wrong)][:3]
                offered.insert(copy % (len(offered) + 1), name)
                row |= {f"level{level}": name.lower(), f"choices_level{level}": [each.lower() for each in offered]}
            rows.append(row)
    root.mkdir(parents=True, exist_ok=True)
    (root / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return {"levels": ["order", "family", "genus", "species"]}


MAKERS: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "inat": inat,
    "inat_plant": inat,
    "cub": cub,
    "food101": food101,
    "imagenet_animal": imagenet,
    "imagenet_artifact": imagenet,
    "folder": folder,
    "choices": choices,
}
