"""Any folder of class folders, and a tree of one's own: a class folder is called as its leaf in the hierarchy."""

from pathlib import Path

from sekd.datasets.base import Example, Listing
from sekd.datasets.config import DataConfig, SplitPart
from sekd.datasets.hierarchy import leaves_of, read_hierarchy
from sekd.datasets.images import image_files
from sekd.datasets.tables import subfolders
from sekd.taxonomy import Names


def read(config: DataConfig, part: SplitPart) -> Listing:
    """The images of every class folder in ``<root>/<part>``."""
    classes = subfolders(Path(config.root) / part.source, "a folder of class folders with images in them")
    taxonomy = read_hierarchy(config)
    leaves, notes = leaves_of({name: [name] for name in classes}, taxonomy, config)
    examples, skipped = in_class_folders(Path(config.root), Path(part.source), leaves)
    return Listing(taxonomy, examples, [*notes, *skipped])


def in_class_folders(root: Path, part: Path, leaves: dict[str, Names]) -> tuple[list[Example], list[str]]:
    """The images in ``root/part/<class>/``, and a note on files there that are none."""
    examples, others = [], 0
    for name, path in leaves.items():
        folder = part / name
        files = image_files(root / folder)
        others += sum(entry.is_file() for entry in (root / folder).iterdir()) - len(files)
        examples += [Example((folder / file).as_posix(), folder / file, path) for file in files]
    return examples, [f"{others} files in the class folders are no images and left out"] if others else []
