"""CUB-200-2011 as published: images.txt, image_class_labels.txt, classes.txt, train_test_split.txt and images/."""

from pathlib import Path

from sekd.datasets.base import Example, Listing
from sekd.datasets.config import DataConfig, SplitPart
from sekd.datasets.hierarchy import leaves_of, read_hierarchy
from sekd.datasets.tables import read_pairs
from sekd.errors import SekdError

IS_TRAINING = {"train": "1", "test": "0"}


def read(config: DataConfig, part: SplitPart) -> Listing:
    """The images of the authors' own training or test part."""
    if part.source not in IS_TRAINING:
        raise SekdError(f"data {config.name}: CUB has the parts train and test, not {part.source!r}; set data.splits")
    root = Path(config.root)
    files, labels = read_pairs(root / "images.txt"), read_pairs(root / "image_class_labels.txt")
    classes, training = read_pairs(root / "classes.txt"), read_pairs(root / "train_test_split.txt")
    for image in files:
        if image not in labels or labels[image] not in classes or image not in training:
            raise SekdError(
                f"{root}: image {image} of images.txt is missing in image_class_labels.txt or train_test_split.txt, "
                "or its class in classes.txt"
            )
    taxonomy = read_hierarchy(config)
    # Classes are published as "022.Chuck_will_Widow".
    leaves, notes = leaves_of({name: [name, name.partition(".")[2]] for name in classes.values()}, taxonomy, config)
    examples = [
        Example(f"images/{file}", Path("images", file), leaves[classes[labels[image]]])
        for image, file in files.items()
        if training[image] == IS_TRAINING[part.source] and classes[labels[image]] in leaves
    ]
    return Listing(taxonomy, examples, notes)
