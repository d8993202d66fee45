"""One reader of images for both stages: every kind of file becomes the same upright RGB."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from sekd.datasets.images import decode, image_size, open_image
from sekd.inference import schedule
from stage2_student import encode

ORIENTATION = 274
PHOTO = Image.fromarray(np.arange(60 * 40 * 3, dtype=np.uint16).astype(np.uint8).reshape(40, 60, 3))


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def write(file: Path, kind: str) -> Path:
    if kind == "sixteen bits":
        Image.fromarray(np.linspace(0, 65535, 2400).astype(np.uint16).reshape(40, 60)).save(file, "PNG")
    elif kind == "transparent":
        PHOTO.convert("RGBA").save(file, "PNG")
    elif kind == "palette":
        PHOTO.convert("P").save(file, "PNG", transparency=3)
    elif kind == "turned":
        PHOTO.save(file, "JPEG", exif=turned(6))
    else:
        PHOTO.convert({"grey": "L", "cmyk": "CMYK"}[kind]).save(file, "JPEG")
    return file


@pytest.mark.parametrize("kind", ["grey", "sixteen bits", "cmyk", "transparent", "palette", "turned"])
def test_both_stages_see_the_same_pixels(kind: str, tmp_path: Path) -> None:
    file = write(tmp_path / "photo.jpg", kind)
    teacher, student, shown = schedule.read_image(file), encode.read_image(file), open_image(file)
    assert teacher.mode == "RGB"
    assert teacher.size == ((40, 60) if kind == "turned" else (60, 40))
    assert teacher.tobytes() == student.tobytes() == shown.tobytes()
    assert sorted(image_size(file)) == sorted(teacher.size)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_its_camera_says(orientation: int, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    PHOTO.save(file, exif=turned(orientation))
    upright = {
        1: lambda pixels: pixels,
        2: np.fliplr,
        3: lambda pixels: np.rot90(pixels, 2),
        4: np.flipud,
        5: lambda pixels: pixels.transpose(1, 0, 2),
        6: lambda pixels: np.rot90(pixels, -1),
        7: lambda pixels: np.rot90(pixels, 2).transpose(1, 0, 2),
        8: lambda pixels: np.rot90(pixels, 1),
    }[orientation](np.asarray(PHOTO))
    assert np.array_equal(np.asarray(decode(file)), upright)


def test_sixteen_bits_of_grey_keep_their_shades(tmp_path: Path) -> None:
    shades = np.asarray(decode(write(tmp_path / "photo.png", "sixteen bits")))[..., 0].ravel().astype(int)
    assert np.abs(shades - np.linspace(0, 255, 2400)).max() <= 1.5


@pytest.mark.filterwarnings("ignore")
def test_damaged_exif_does_not_cost_the_photo(tmp_path: Path) -> None:
    file, source, rng = tmp_path / "photo.jpg", io.BytesIO(), random.Random(0)
    exif = turned(6)
    exif[270] = "caption"
    PHOTO.save(source, "JPEG", exif=exif)
    whole = source.getvalue()
    marker = whole.index(b"Exif")
    end = marker - 2 + int.from_bytes(whole[marker - 2 : marker], "big")
    for _ in range(20_000):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[rng.randrange(marker + 6, end)] = rng.randrange(256)
        image = Image.open(io.BytesIO(damaged))
        image.load()
        try:
            ImageOps.exif_transpose(image)
        except Exception:
            break
    else:
        pytest.fail("no damage was found that Pillow stumbles on")
    file.write_bytes(damaged)
    assert decode(file).size == PHOTO.size
