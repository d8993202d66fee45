"""Datasets with one class an image and a separate tree file: CUB, Food-101, ImageNet, and class folders.

Class names and the tree's keys are spelled differently in every dataset ("022.Chuck_will_Widow", "Chuck-will's-widow").
"""

import csv
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sekd.datasets.base import Example, Listing
from sekd.datasets.config import DataConfig, SplitPart
from sekd.datasets.images import SUFFIXES, image_files, is_utf8
from sekd.datasets.tables import locate, read_lines, read_pairs
from sekd.errors import SekdError
from sekd.taxonomy import TREES, Names, Taxonomy, fold, load_taxonomy

ACCENTS = "[\u0300-\u036f]"  # other scripts' marks tell words apart, like the vowels of Hindi


@dataclass(frozen=True)
class Leaves:
    """A tree, and the path of each class in it, without the classes that it does not hold: ``notes`` name those."""

    taxonomy: Taxonomy
    leaves: dict[str, Names]
    notes: list[str]

    def listing(self, images: Iterable[tuple[str, str]]) -> Listing:
        """Of images, by their paths below the root and their classes, those whose class is in the tree."""
        examples = [Example.at(image, self.leaves[name]) for image, name in images if name in self.leaves]
        return Listing(self.taxonomy, examples, self.notes)


def read_hierarchy(config: DataConfig) -> Taxonomy:
    """The tree that ``config.hierarchy`` names; ``SekdError`` if it is not set, absent or no tree."""
    file = locate(config.root, config.hierarchy) if config.hierarchy else None
    if file is None or not file.is_file():
        raise SekdError(
            f"data {config.name} needs a tree, and there is none at {file or 'data.hierarchy'}: "
            f"set data.hierarchy to {TREES}"
        )
    return load_taxonomy(file, skip=config.skip, level_names=config.levels)


def leaves_of(config: DataConfig, spellings: Mapping[str, Sequence[str]]) -> Leaves:
    """The leaf of each class in the dataset's tree; ``SekdError`` if it holds none, or not all where it should.

    Args:
        spellings: class -> possible names in the tree, the best first. A tree's key belongs to the class that matches
            it best; its exact spelling is better than one without punctuation, which counts only for the keys of one
            path.
    """
    taxonomy = read_hierarchy(config)
    leaves: dict[str, Names] = {}
    taken: set[str] = set()
    for rank in range(max(map(len, spellings.values()), default=0)):
        for simplify in (fold, _loosened):
            keys = _by_form(taxonomy, simplify)
            for name, spelled in spellings.items():
                key = keys.get(simplify(spelled[rank])) if rank < len(spelled) and name not in leaves else None
                if key is not None and key not in taken:
                    leaves[name] = taxonomy.keys[key]
                    taken.add(key)
    without = [name for name in spellings if name not in leaves]
    shown = ", ".join(without[:5]) + (f" and {len(without) - 5} more" if len(without) > 5 else "")
    shown = shown.encode(errors="replace").decode()  # a folder's name may be no UTF-8
    if not leaves or (without and not config.partial_hierarchy):
        raise SekdError(
            f"data {config.name}: {len(without)} of {len(spellings)} classes have no path in {config.hierarchy}: "
            f"{shown or 'there are no classes'}. Add them to the hierarchy, or leave them out with "
            "data.partial_hierarchy=true"
        )
    note = f"{len(without)} classes are not in {config.hierarchy} and left out: {shown}"
    return Leaves(taxonomy, leaves, [note] if without else [])


def _by_form(taxonomy: Taxonomy, simplify: Callable[[str], str]) -> dict[str, str]:
    """Simplified form -> the tree's key, without the empty form and those that keys of several paths share."""
    paths: dict[str, set[Names]] = defaultdict(set)
    for key, path in taxonomy.keys.items():
        paths[simplify(key)].add(path)
    return {form: key for key in taxonomy.keys if (form := simplify(key)) and len(paths[form]) == 1}


def _loosened(name: str) -> str:
    """A name without case, accents, possessives and punctuation. Letters, digits and vowel signs of any script stay."""
    decomposed = unicodedata.normalize("NFKD", name).casefold().replace("\u2019", "'")
    plain = re.sub(ACCENTS, "", decomposed).replace("'s", "").replace("'", "")
    kept = (each if unicodedata.category(each)[0] in "LMN" else " " for each in plain)
    return " ".join("".join(kept).split())


CUB_PARTS = {"train": "1", "test": "0"}
CUB_LISTS = ("images.txt", "image_class_labels.txt", "classes.txt", "train_test_split.txt")
UNPACKED = Path("ILSVRC/Data/CLS-LOC")


def read_cub(config: DataConfig, part: SplitPart) -> Listing:
    """CUB-200-2011 as published: the images of the authors' own training or test part."""
    if part.source not in CUB_PARTS:
        raise SekdError(f"data {config.name}: CUB has the parts train and test, not {part.source!r}; set data.splits")
    files, labels, classes, training = (read_pairs(Path(config.root) / name) for name in CUB_LISTS)
    for image in files:
        if labels.get(image) not in classes or image not in training:
            raise SekdError(
                f"{config.root}: image {image} of images.txt is missing in image_class_labels.txt or "
                "train_test_split.txt, or its class in classes.txt"
            )
    # Classes are published as "022.Chuck_will_Widow".
    found = leaves_of(config, {name: [name, name.partition(".")[2]] for name in classes.values()})
    wanted = [image for image in files if training[image] == CUB_PARTS[part.source]]
    return found.listing((f"images/{files[image]}", classes[labels[image]]) for image in wanted)


def read_food101(config: DataConfig, part: SplitPart) -> Listing:
    """Food-101 as published: the images that ``meta/<part>.txt`` lists as "class/number"."""
    meta = Path(config.root) / "meta"
    file, classes = meta / f"{part.source}.txt", read_lines(meta / "classes.txt")
    images = []
    for line in read_lines(file):
        name, _, number = line.partition("/")
        if not number or "/" in number:
            raise SekdError(f"{file}: expected lines like apple_pie/1005649, got {line!r}")
        if name not in classes:
            raise SekdError(f"{file} lists images of {name}, which meta/classes.txt does not hold")
        images.append((f"images/{line}.jpg", name))
    return leaves_of(config, {name: [name] for name in classes}).listing(images)


def read_imagenet(config: DataConfig, part: SplitPart) -> Listing:
    """ImageNet as published for ILSVRC: the images of ``train`` or ``val``, between the configured WordNet ids.

    The parts may be in the root or where the archive unpacks them. The validation images may be in class folders or in
    one folder, with LOC_val_solution.csv.
    """
    root = Path(config.root)
    synsets = read_pairs(root / "LOC_synset_mapping.txt")
    if config.wnids:
        first, last = config.wnids
        synsets = {wnid: names for wnid, names in synsets.items() if first <= wnid <= last}
    # "n01440764 tench, Tinca tinca": a tree may use the id, all names, or one of them.
    found = leaves_of(config, {wnid: [wnid, names, *names.split(", ")] for wnid, names in synsets.items()})
    places = [place for place in (Path(part.source), UNPACKED / part.source) if (root / place).is_dir()]
    if not places:
        raise SekdError(
            f"{root} has neither {part.source}/ nor {UNPACKED / part.source}/: expected class folders by WordNet id "
            "there. Where they lie in the root itself, give each split a share of it, like data.splits.train=.@0-90%"
        )
    folder = places[0]
    held = set(_subfolders(root / folder))
    if not held & set(synsets):
        labels = _solutions(root / "LOC_val_solution.csv")
        files = image_files(root / folder)
        if unlisted := sum(Path(file).stem not in labels for file in files):
            found.notes.append(f"{unlisted} images of {folder} are not in LOC_val_solution.csv and left out")
        return found.listing(((folder / file).as_posix(), labels.get(Path(file).stem, "")) for file in files)
    if absent := [wnid for wnid in found.leaves if wnid not in held]:
        found.notes.append(f"{len(absent)} classes have no folder in {root / folder}: {', '.join(absent[:5])}")
    for wnid in absent:
        del found.leaves[wnid]
    return _in_class_folders(root, folder, found)


def read_folder(config: DataConfig, part: SplitPart) -> Listing:
    """Class folders named as the leaves of the tree: the images in ``<root>/<part>/<class>/``."""
    root = Path(config.root)
    if not (root / part.source).is_dir():
        raise SekdError(f"the folder {root / part.source} does not exist: expected a folder of class folders")
    found = leaves_of(config, {name: [name] for name in _subfolders(root / part.source)})
    return _in_class_folders(root, Path(part.source), found)


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())


def _solutions(path: Path) -> dict[str, str]:
    """Image -> its WordNet id, the first word of the second column; a ``SekdError`` that names a row without one."""
    labels = {}
    for number, row in enumerate(csv.reader(read_lines(path)[1:]), start=2):
        if len(row) != 2 or not row[1].split():
            raise SekdError(f"{path}, row {number}: expected an image and its boxes, got {row}; copy the file again")
        labels[row[0]] = row[1].split()[0]
    return labels


def _in_class_folders(root: Path, part: Path, found: Leaves) -> Listing:
    """The images in ``root/part/<class>/``, and notes on the other files there. Hidden folders are not entered."""
    images, left_out = [], Counter[str]()
    left_out["images beside the class folders are left out"] = len(image_files(root / part))
    for name in found.leaves:
        folder = root / part / name
        files = image_files(folder)
        for parent, inner, others in os.walk(folder):
            inner[:] = [each for each in inner if not each.startswith(".")]
            if Path(parent) == folder:
                left_out["files in the class folders are no images and left out"] += len(others) - len(files)
            else:
                nested = sum(each.lower().endswith(SUFFIXES) for each in others)
                left_out["images in folders within the class folders are left out"] += nested
        named = [file for file in files if is_utf8(name + file)]
        left_out["images are left out: their names are not UTF-8"] += len(files) - len(named)
        images += [((part / name / file).as_posix(), name) for file in named]
    found.notes.extend(f"{count} {what}" for what, count in left_out.items() if count)
    return found.listing(images)
