"""Image files: whether they exist, whether they decode, and their pixels. No other file opens images."""

import base64
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from sekd.datasets.base import texts
from sekd.errors import SekdError, first_line

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# The ending of a complete file of a format; cameras may append bytes.
ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
UNBOUNDED = ("I", "F")  # Pillow's modes of 32 bits a pixel
TAIL = 4096
BLOCK = 4096  # files submitted at a time: millions of waiting jobs would fill the memory
DECODE_ERRORS = (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError)


def open_image(path: Path | str) -> Image.Image:
    """The image's pixels as RGB; ``SekdError`` if the file is absent or does not decode."""
    try:
        return decode(path)
    except FileNotFoundError:
        raise SekdError(f"image {path} is absent: put it back, or remove it from the dataset's list") from None
    except DECODE_ERRORS as error:
        raise SekdError(f"image {path} does not decode ({_why(error)}): copy it again or remove it") from error


def decode(path: Path | str) -> Image.Image:
    """The image as every part of this project uses it: RGB, rotated by its EXIF orientation.

    Raises one of ``DECODE_ERRORS`` if the file is absent or does not decode.
    """
    with Image.open(path) as file:
        file.load()
        _check_depth(file)
        image: Image.Image = file
        with suppress(Exception):  # damaged EXIF may raise any error, while the pixels are intact
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):  # scaled to eight bits: Pillow's own conversion clips nearly all to white
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return image.convert("RGB")


def data_uri(image: Image.Image, *, quality: int) -> str:
    """The image as JPEG, for a page that is one file."""
    jpeg = BytesIO()
    image.save(jpeg, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"


def image_size(path: Path | str) -> tuple[int, int]:
    """Width and height as stored, from the file's header alone; raises as ``decode`` does."""
    with Image.open(path) as image:
        return image.size


def _check_depth(image: Image.Image) -> None:
    if image.mode in UNBOUNDED:
        raise ValueError("32 bits a pixel do not say which value is white: save it with 8 or 16")


def undecodable(paths: Sequence[Path], *, whole: bool = False, progress: bool = False) -> dict[Path, str]:
    """The files that do not decode, and why: header and ending of each are read, or all of it if those are unusual.

    With ``whole`` all of every file is read. With ``progress`` a long check shows a bar.
    """
    with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) * 2)) as pool:
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


def present(root: Path, images: pa.ChunkedArray) -> np.ndarray:
    """Which of the images (text, relative to root) are on disk, as a mask [N]. Lists each folder once.

    Compares hashes of 64 bits: of millions of names the texts would take gigabytes.
    """
    folders = {name[: name.rfind("/") + 1] for name in texts(images)}
    there = [folder for folder in folders if (root / folder).is_dir()]
    listed = np.fromiter((hash(folder + entry.name) for folder in there for entry in os.scandir(root / folder)), int)
    wanted = np.fromiter((hash(name) for name in texts(images)), int, len(images))
    return np.isin(wanted, listed)


def is_utf8(name: str) -> bool:
    """Whether a file's name can be stored: the store's columns are UTF-8."""
    return name == name.encode(errors="replace").decode()


def image_files(folder: Path) -> list[str]:
    """Names of the image files directly in a folder, sorted."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(SUFFIXES))


def _faults(pool: ThreadPoolExecutor, paths: Sequence[Path], whole: bool) -> Iterator[str | None]:
    for start in range(0, len(paths), BLOCK):
        yield from pool.map(partial(_fault, whole=whole), paths[start : start + BLOCK])


def _fault(path: Path, *, whole: bool) -> str | None:
    """Why a file does not decode."""
    try:
        with path.open("rb") as file, Image.open(file) as image:
            ending = ENDINGS.get(image.format or "")
            _check_depth(image)
            place = file.tell()
            file.seek(max(0, path.stat().st_size - TAIL))
            if not whole and ending and ending in file.read():
                return None
            file.seek(place)
            image.load()
    except DECODE_ERRORS as error:
        return _why(error)
    return None


def _why(error: Exception) -> str:
    return "no image format known" if isinstance(error, UnidentifiedImageError) else first_line(error)
