"""Photos of real sizes in the layout of iNaturalist 2021: grey, CMYK, transparent, turned, and broken off."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sekd.datasets import DataConfig

RANKS = ("kingdom", "phylum", "class", "order", "family", "genus")
ROTATED = 6  # EXIF: to be turned by 90 degrees clockwise
ORIENTATION = 274

# Name, size, and what is special about the file; iNaturalist's own photos are at most 500 wide or high.
KINDS = {
    "landscape": (500, 375),
    "portrait": (375, 500),
    "large": (2000, 1500),
    "grey": (500, 333),
    "cmyk": (333, 500),
    "transparent": (500, 281),  # a PNG with an alpha channel, named .jpg
    "rotated": (500, 375),
    "square": (500, 500),
    "low": (500, 1),
    "narrow": (60, 900),
    "odd": (331, 173),
}
TRUNCATED = "truncated"


@dataclass(frozen=True)
class Photos:
    """The folder, a configuration of the data in it, and each kind's file."""

    root: Path
    data: DataConfig
    files: dict[str, Path]


def write_photos(root: Path, *, truncated: bool = False, kinds: tuple[str, ...] = tuple(KINDS)) -> Photos:
    """One photo a kind, each of another species; with ``truncated`` one more that does not decode."""
    names = [*kinds, *([TRUNCATED] if truncated else [])]
    images, annotations, files = [], [], {}
    categories = [_category(index) for index in range(max(12, len(names)))]
    for index, name in enumerate(names):
        file = root / "photos" / str(categories[index]["image_dir_name"]) / f"{name}.jpg"
        file.parent.mkdir(parents=True)
        write_photo(file, name, seed=index)
        files[name] = file
        width, height = KINDS.get(name, (500, 375))
        path = file.relative_to(root).as_posix()
        images.append({"id": index, "file_name": path, "width": width, "height": height})
        annotations.append({"id": index, "image_id": index, "category_id": index})
    listed = {"images": images, "annotations": annotations, "categories": categories}
    (root / "photos.json").write_text(json.dumps(listed))
    splits: dict[str, str | None] = {"train": "photos.json", "val": None, "test": None}
    levels = [*RANKS, "name"]
    data = DataConfig(name="photos", format="inat", root=str(root), splits=splits, levels=levels, skip=1)
    return Photos(root, data, files)


def write_photo(file: Path, kind: str, *, seed: int = 0) -> None:
    """A photo of a kind of ``KINDS``, or one that breaks off in the middle."""
    photo = picture(*KINDS.get(kind, (500, 375)), seed=seed)
    if kind == "transparent":
        photo.putalpha(180)
        photo.save(file, "PNG")
        return
    exif = Image.Exif()
    if kind == "rotated":
        exif[ORIENTATION] = ROTATED
    mode = {"grey": "L", "cmyk": "CMYK"}.get(kind, "RGB")
    photo.convert(mode).save(file, "JPEG", quality=88, exif=exif)
    if kind == TRUNCATED:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])


def picture(width: int, height: int, *, seed: int) -> Image.Image:
    """Smooth waves of colour with some grain: no two alike, none the same upside down."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 97.0
    waves = [127 + 90 * np.sin(x * rng.uniform(0.5, 4) + y * rng.uniform(0.5, 4) + rng.uniform(0, 6)) for _ in range(3)]
    grain = rng.normal(0, 12, (height, width, 3))
    return Image.fromarray((np.stack(waves, -1) + grain).clip(0, 255).astype(np.uint8))


def _category(index: int) -> dict[str, int | str]:
    """An animal in a tree that parts in two at each rank and in more at the last."""
    places = [0, *(index % (2 ** (depth + 1)) for depth in range(len(RANKS) - 1))]
    names = {rank: f"{rank.capitalize()} {place}" for rank, place in zip(RANKS, places, strict=True)}
    names |= {"kingdom": "Animalia", "name": f"Species {index}"}
    return {"id": index, "image_dir_name": f"{index:05d}_species_{index}", **names}
