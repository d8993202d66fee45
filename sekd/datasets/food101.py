"""Food-101 as published: meta/train.txt and meta/test.txt list "class/number", and images/ holds the files."""

from pathlib import Path

from sekd.datasets.base import Example, Listing
from sekd.datasets.config import DataConfig, SplitPart
from sekd.datasets.hierarchy import leaves_of, read_hierarchy
from sekd.datasets.tables import read_lines
from sekd.errors import SekdError


def read(config: DataConfig, part: SplitPart) -> Listing:
    """The images that ``meta/<part>.txt`` lists."""
    meta = Path(config.root) / "meta"
    listed = read_lines(meta / f"{part.source}.txt")
    for line in listed:
        if line.count("/") != 1:
            raise SekdError(f"{meta / part.source}.txt: expected lines like apple_pie/1005649, got {line!r}")
    taxonomy = read_hierarchy(config)
    classes = read_lines(meta / "classes.txt")
    leaves, notes = leaves_of({name: [name] for name in classes}, taxonomy, config)
    stray = {line.split("/")[0] for line in listed} - set(classes)
    if stray:
        raise SekdError(f"{meta / part.source}.txt lists images of {min(stray)}, which meta/classes.txt does not hold")
    examples = [
        Example(f"images/{line}.jpg", Path("images", f"{line}.jpg"), leaves[line.split("/")[0]])
        for line in listed
        if line.split("/")[0] in leaves
    ]
    return Listing(taxonomy, examples, notes)
