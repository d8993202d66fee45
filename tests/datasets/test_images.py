"""One reader of images for both stages: every kind of file becomes the same upright RGB."""

import io
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from sekd.datasets.images import decode, image_size, open_image, undecodable
from sekd.errors import SekdError
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


def tiff(values: np.ndarray, kind: int) -> bytes:
    """A file of one strip in the array's own byte order; kinds are 1 unsigned, 2 signed, 3 float."""
    end, data, (height, width) = values.dtype.str[0], values.tobytes(), values.shape
    bits = 8 * values.itemsize
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data), 339: kind}
    entries = [struct.pack(f"{end}HHII", tag, 4, 1, value) for tag, value in tags.items()]
    head = (b"MM" if end == ">" else b"II") + struct.pack(f"{end}HI", 42, 8 + len(data))
    return head + data + struct.pack(f"{end}H", len(tags)) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_keep_their_shades_in_either_byte_order(order: str, tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 2400).astype(f"{order}u2").reshape(40, 60)
    (tmp_path / "photo.tif").write_bytes(tiff(values, 1))
    assert undecodable([tmp_path / "photo.tif"]) == {}
    assert np.array_equal(np.asarray(decode(tmp_path / "photo.tif"))[..., 1], values >> 8)


@pytest.mark.parametrize(("dtype", "kind"), [("<f4", 3), ("<i4", 2)])
def test_a_photo_of_thirty_two_bits_is_named_before_an_engine_starts(dtype: str, kind: int, tmp_path: Path) -> None:
    file = tmp_path / "photo.tif"
    file.write_bytes(tiff(np.linspace(0, 9, 2400).astype(dtype).reshape(40, 60), kind))
    assert undecodable([file]) == {file: "32 bits a pixel do not say which value is white: save it with 8 or 16"}
    with pytest.raises(SekdError, match=r"photo\.tif does not decode \(32 bits a pixel .*save it with 8 or 16"):
        open_image(file)


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
