"""Images for the page, small and inside it."""

import base64
import io
from pathlib import Path

from PIL import Image

from sekd.datasets.images import DECODE_ERRORS, decode

LARGEST = 320  # pixels on the longer side: sharp at the size shown, on a dense screen too
SMALLEST = 160  # smaller pictures are enlarged, so that every browser shows the same smooth edges


def embed(file: Path) -> str | None:
    """The image as a data URI; None where it is missing or is no image."""
    try:
        picture = _sized(decode(file))
    except DECODE_ERRORS:
        return None
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _sized(picture: Image.Image) -> Image.Image:
    longest = max(picture.size)
    scale = LARGEST / longest if longest > LARGEST else max(1.0, SMALLEST / longest)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS) if scale != 1 else picture
