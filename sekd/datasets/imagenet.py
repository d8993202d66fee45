"""ImageNet as published for ILSVRC: class folders by WordNet id, named by LOC_synset_mapping.txt.

The parts may lie in the root or where the archive unpacks them. The validation images may lie in class folders too, or
flat, with LOC_val_solution.csv.
"""

import csv
from pathlib import Path

from sekd.datasets.base import Example, Listing
from sekd.datasets.config import DataConfig, SplitPart
from sekd.datasets.folder import in_class_folders
from sekd.datasets.hierarchy import leaves_of, read_hierarchy
from sekd.datasets.images import image_files
from sekd.datasets.tables import read_lines, read_pairs, subfolders
from sekd.errors import SekdError
from sekd.taxonomy import Names

UNPACKED = Path("ILSVRC/Data/CLS-LOC")
SYNSETS = "LOC_synset_mapping.txt"
SOLUTION = "LOC_val_solution.csv"


def read(config: DataConfig, part: SplitPart) -> Listing:
    """The images of ``train`` or ``val`` whose class is in the tree, and between the configured WordNet ids."""
    root = Path(config.root)
    synsets = read_pairs(root / SYNSETS)
    if config.wnids:
        first, last = config.wnids
        synsets = {wnid: names for wnid, names in synsets.items() if first <= wnid <= last}
    taxonomy = read_hierarchy(config)
    # "n01440764 tench, Tinca tinca": a tree may call it by the id, by all its names, or by one of them.
    spellings = {wnid: [wnid, names, *names.split(", ")] for wnid, names in synsets.items()}
    leaves, notes = leaves_of(spellings, taxonomy, config)
    folder = _part_folder(root, part)
    held = set(subfolders(root / folder, f"class folders by WordNet id, as in {folder}/n01440764"))
    if not held & set(synsets):
        return Listing(taxonomy, _flat(root, folder, leaves), notes)
    absent = [wnid for wnid in leaves if wnid not in held]
    if absent:
        notes.append(f"{len(absent)} classes have no folder in {root / folder}: {', '.join(absent[:5])}")
    examples, skipped = in_class_folders(root, folder, {wnid: leaves[wnid] for wnid in leaves if wnid in held})
    return Listing(taxonomy, examples, [*notes, *skipped])


def _part_folder(root: Path, part: SplitPart) -> Path:
    for folder in (Path(part.source), UNPACKED / part.source):
        if (root / folder).is_dir():
            return folder
    raise SekdError(
        f"{root} has neither {part.source}/ nor {UNPACKED / part.source}/: expected class folders by WordNet id there. "
        "Where they lie in the root itself, give each split a share of it, like data.splits.train=.@0-90%"
    )


def _flat(root: Path, folder: Path, leaves: dict[str, Names]) -> list[Example]:
    """Validation images in one folder: the first word of a solution's second column is the image's WordNet id."""
    rows = list(csv.reader(read_lines(root / SOLUTION)))[1:]
    labels = {image: boxes.split()[0] for image, boxes in rows}
    return [
        Example((folder / file).as_posix(), folder / file, leaves[labels[Path(file).stem]])
        for file in image_files(root / folder)
        if labels.get(Path(file).stem) in leaves
    ]
