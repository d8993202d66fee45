"""Image files: whether they are there, whether they decode, and their pixels. Nothing else opens them."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from sekd.errors import SekdError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# How a whole file of a format ends, give or take what cameras append.
ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
TAIL = 4096
BLOCK = 4096  # files handed out at a time: millions of waiting jobs would fill the memory
DECODE_ERRORS = (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError)


def open_image(path: Path | str) -> Image.Image:
    """The image's pixels as RGB.

    Raises:
        SekdError: the file is absent, or does not decode.
    """
    try:
        return decode(path)
    except FileNotFoundError:
        raise SekdError(f"image {path} is absent: put it back, or remove it from the dataset's list") from None
    except DECODE_ERRORS as error:
        raise SekdError(f"image {path} does not decode ({_first_line(error)}): copy it again or remove it") from error


def decode(path: Path | str) -> Image.Image:
    """The image as every part of this project sees it: RGB, turned as its EXIF orientation says.

    Raises:
        One of ``DECODE_ERRORS``: the file is absent, or does not decode.
    """
    with Image.open(path) as image:
        image.load()
        return _eight_bits(_upright(image)).convert("RGB")


def image_size(path: Path | str) -> tuple[int, int]:
    """Width and height as stored, from the file's header alone; raises as ``decode`` does."""
    with Image.open(path) as image:
        return image.size


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF raises whatever its parser stumbles on, and the pixels are whole
        return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Sixteen-bit grey scaled to eight bits, where Pillow's own conversion would clip nearly all of it to white."""
    return image.point(lambda value: value / 256).convert("L") if image.mode.startswith("I;16") else image


def undecodable(
    paths: Sequence[Path], *, whole: bool = False, workers: int | None = None, progress: bool = False
) -> dict[Path, str]:
    """The files that do not decode, and why: header and ending of each are read, all of it where in doubt.

    Cheap enough to be done before anything expensive starts. With ``whole`` all of every file is read. With
    ``progress`` a bar shows when it takes long.
    """
    with ThreadPoolExecutor(workers or min(16, (os.cpu_count() or 1) * 2)) as pool:
        faults = tqdm(
            _faults(pool, paths, whole),
            desc="looking at images",
            total=len(paths),
            unit="image",
            delay=2,
            leave=False,
            disable=None if progress else True,  # None: shown on a terminal alone
        )
        return {path: fault for path, fault in zip(paths, faults, strict=True) if fault}


def present(root: Path, images: Iterable[Path]) -> set[Path]:
    """Those of the images, relative to root, that are on disk. Lists each folder once rather than asking per image."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for image in images:
        by_folder[image.parent].append(image)
    found: set[Path] = set()
    for folder, wanted in by_folder.items():
        if len(wanted) == 1:
            found.update(image for image in wanted if (root / image).is_file())
        elif (root / folder).is_dir():
            names = {entry.name for entry in os.scandir(root / folder)}
            found.update(image for image in wanted if image.name in names)
    return found


def image_files(folder: Path) -> list[str]:
    """Names of the image files directly in a folder, sorted."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(SUFFIXES))


def _faults(pool: ThreadPoolExecutor, paths: Sequence[Path], whole: bool) -> Iterator[str | None]:
    for start in range(0, len(paths), BLOCK):
        yield from pool.map(partial(_fault, whole=whole), paths[start : start + BLOCK])


def _fault(path: Path, *, whole: bool) -> str | None:
    """Why a file does not decode."""
    try:
        with Image.open(path) as image:
            ending = ENDINGS.get(image.format or "")
            if whole or ending is None or ending not in _tail(path):
                image.load()
    except DECODE_ERRORS as error:
        return _first_line(error)
    return None


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        return file.read()


def _first_line(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no image format known"
    return (str(error).splitlines() or [type(error).__name__])[0]
