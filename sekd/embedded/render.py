"""Draws one image of the embedded world from its kingdom and attribute values."""

import numpy as np
from PIL import Image, ImageDraw

SIDE = 144  # pixels of the finished image
DRAWN = 2 * SIDE  # drawn larger and scaled down, for smooth edges

RGB = {
    "red": (221, 62, 52), "green": (64, 174, 76), "blue": (70, 104, 226), "yellow": (240, 208, 58),
    "pink": (246, 132, 188), "purple": (148, 68, 200), "orange": (246, 142, 42), "white": (246, 244, 238),
    "teal": (28, 152, 152), "brown": (146, 92, 52), "grey": (146, 148, 152), "lime": (166, 222, 60),
    "amber": (250, 176, 40), "cyan": (60, 206, 232), "rose": (236, 92, 128), "olive": (128, 138, 48),
    "crimson": (204, 34, 62), "azure": (72, 150, 246), "gold": (232, 186, 62), "silver": (204, 210, 220),
}  # fmt: skip
SKY = {  # top and bottom of the background
    "Fauna": ((10, 42, 74), (4, 18, 38)),
    "Flora": ((34, 66, 46), (14, 34, 24)),
    "Vessel": ((250, 240, 222), (222, 200, 172)),
    "Moth": ((52, 38, 78), (22, 16, 40)),
    "Rocket": ((6, 6, 18), (26, 14, 44)),
}
INK = {
    "Fauna": (232, 240, 246), "Flora": (132, 214, 104), "Vessel": (58, 48, 66), "Moth": (238, 226, 200),
    "Rocket": (255, 150, 40),
}  # fmt: skip
HEIGHT = {"Fauna": 0.56, "Flora": 0.40, "Vessel": 0.56, "Moth": 0.54, "Rocket": 0.45}  # of the subject's centre

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom
Colour = tuple[int, int, int]


def _around(width: float, height: float, *centres: Point) -> list[Box]:
    return [(x - width, y - height, x + width, y + height) for x, y in centres]


# The subject's outline: its parts' bounding boxes and corners. MIRRORED are drawn with their mirror images.
ELLIPSES: dict[str, list[Box]] = {
    "disc": [(-1, -0.95, 1, 0.95)],
    "daisy": [(-1, -1, 1, 1)],
    "clover": [*_around(0.5, 0.5, (-0.6, 0), (0.6, 0), (0, -0.6), (0, 0.6)), (-0.3, -0.3, 0.3, 0.3)],
    "scalloped": _around(0.6, 0.5, (-0.6, -0.45), (0.6, -0.45), (-0.55, 0.5), (0.55, 0.5)),
    "dome": [(-0.95, -1.1, 0.95, 0.8)],
    "saucer": [(-1.4, -0.35, 1.4, 0.75), (-0.6, -0.95, 0.6, 0.4)],
}
POLYGONS: dict[str, list[Point]] = {
    "dart": [(1.5, 0), (-0.2, -0.62), (-1.25, 0), (-0.2, 0.62)],
    "box": [(-0.95, -0.8), (0.95, -0.8), (0.95, 0.8), (-0.95, 0.8)],
    "kite": [(0, -1.15), (1.05, 0.75), (-1.05, 0.75)],
    "tulip": [(-1, -1), (-0.5, -0.35), (0, -1), (0.5, -0.35), (1, -1), (0.75, 0.6), (0, 1), (-0.75, 0.6)],
    "bell": [(-0.35, -1), (0.35, -1), (0.6, 0.2), (1.15, 0.9), (-1.15, 0.9), (-0.6, 0.2)],
    "bowl": [(-1.15, -0.6), (1.15, -0.6), (0.6, 0.95), (-0.6, 0.95)],
    "flask": [(-0.3, -1), (0.3, -1), (0.3, -0.3), (1.1, 0.95), (-1.1, 0.95), (-0.3, -0.3)],
    "jar": [(-0.8, -1), (0.8, -1), (0.8, 0.95), (-0.8, 0.95)],
    "needle": [(0, -1.5), (0.55, -0.3), (0.55, 1), (-0.55, 1), (-0.55, -0.3)],
    "dome": [(-0.95, -0.15), (0.95, -0.15), (0.95, 1), (-0.95, 1)],
    "capsule": [(-0.45, -1.05), (0.45, -1.05), (1.15, 1), (-1.15, 1)],
}
MIRRORED: dict[str, list[Point]] = {
    "urn": [(0, -1), (0.6, -1), (1.05, -0.2), (0.35, 0.6), (0.7, 0.95), (0, 0.95)],
    "broad": [(0, -0.5), (1.35, -0.95), (1.35, 0.85), (0, 0.6)],
    "tailed": [(0, -0.5), (1.35, -0.8), (0.95, 0.2), (0.85, 1.3), (0.4, 0.5), (0, 0.5)],
    "narrow": [(0, -0.45), (1.5, -0.2), (1.4, 0.3), (0, 0.45)],
}
HANDLES = {"lefthandle": (-1.7, -0.6, -0.4, 0.6), "righthandle": (0.4, -0.6, 1.7, 0.6)}


class Canvas:
    """An image in progress. Coordinates (x right, y down) are from the subject's centre, in units of its radius."""

    def __init__(self, background: Image.Image, ink: Colour, height: float, rng: np.random.Generator) -> None:
        self.rng = rng
        self.ink = ink
        self.image = background
        self.draw = ImageDraw.Draw(self.image)
        self.radius = DRAWN * rng.uniform(0.24, 0.28)
        self.line = round(0.17 * self.radius)
        self.centre = (DRAWN * (0.5 + rng.uniform(-0.05, 0.05)), DRAWN * (height + rng.uniform(-0.04, 0.04)))

    def pixels(self, *points: Point) -> list[Point]:
        return [(self.centre[0] + x * self.radius, self.centre[1] + y * self.radius) for x, y in points]

    def box(self, x0: float, y0: float, x1: float, y1: float) -> list[Point]:
        return self.pixels((x0, y0), (x1, y1))

    def polygon(self, *corners: Point) -> None:
        self.draw.polygon(self.pixels(*corners), fill=self.ink)

    def ellipse(self, *box: float) -> None:
        self.draw.ellipse(self.box(*box), fill=self.ink)

    def body(self, kingdom: str, shape: str) -> Image.Image:
        mask = Image.new("L", self.image.size, 0)
        draw = ImageDraw.Draw(mask)
        for box in ELLIPSES.get(shape, []):
            draw.ellipse(self.box(*box), fill=255)
        half = MIRRORED.get(shape, [])
        trunk = [(-0.14, -0.75), (0.14, -0.75), (0.14, 0.8), (-0.14, 0.8)] if kingdom == "Moth" else []
        for corners in (POLYGONS.get(shape), half, [(-x, y) for x, y in half], trunk):
            if corners:
                draw.polygon(self.pixels(*corners), fill=255)
        return mask


def render(kingdom: str, attributes: dict[str, str], rng: np.random.Generator) -> Image.Image:
    """An RGB image of ``SIDE`` x ``SIDE`` pixels; ``rng`` varies position, size, shade and texture."""
    canvas = Canvas(_background(kingdom, rng), INK[kingdom], HEIGHT[kingdom], rng)
    DRAW[kingdom](canvas, attributes)
    skin = draw_skin(attributes["pattern"], shaded(RGB[attributes["colour"]], rng), canvas)
    canvas.image.paste(skin, (0, 0), canvas.body(kingdom, attributes["shape"]))
    return canvas.image.resize((SIDE, SIDE), Image.Resampling.BOX)


def shaded(colour: Colour, rng: np.random.Generator) -> Colour:
    """The colour a little lighter or darker in each channel."""
    red, green, blue = np.clip(np.array(colour) + rng.integers(-14, 15, 3), 0, 255).tolist()
    return red, green, blue


def draw_sky(top: Colour, bottom: Colour, rng: np.random.Generator) -> Image.Image:
    """A background that fades from one colour to another, both a little varied."""
    above, below = (np.array(colour) + rng.integers(-8, 9, 3) for colour in (top, bottom))
    ramp = np.linspace(0, 1, DRAWN)[:, None]
    column = np.clip(above * (1 - ramp) + below * ramp, 0, 255).astype(np.uint8)
    return Image.fromarray(np.repeat(column[:, None], DRAWN, axis=1))


def _background(kingdom: str, rng: np.random.Generator) -> Image.Image:
    image = draw_sky(*SKY[kingdom], rng)
    column = np.asarray(image)[:, 0]
    draw = ImageDraw.Draw(image)
    if kingdom in ("Flora", "Vessel"):  # the ground, the table
        draw.rectangle([0, DRAWN * 0.93, DRAWN, DRAWN], fill=tuple(int(v * 0.8) for v in column[-1]))
    else:
        for x, y, size in rng.uniform(0, 1, (12, 3)) * (DRAWN, DRAWN, 4):  # bubbles, motes, stars
            draw.ellipse([x, y, x + size + 2, y + size + 2], fill=tuple(int(v) + 46 for v in column[DRAWN // 2]))
    return image


def draw_skin(pattern: str, light: Colour, canvas: Canvas) -> Image.Image:
    """The body's colour and pattern over the whole image; the caller cuts out the body."""
    dark = tuple(int(v * 0.3) for v in light)
    skin = Image.new("RGB", canvas.image.size, light)
    draw = ImageDraw.Draw(skin)
    shift = canvas.rng.uniform(0, 0.3)
    if pattern == "striped":
        for y in np.arange(-1.5 + shift, 1.5, 0.56).tolist():
            draw.rectangle(canvas.box(-2, y, 2, y + 0.23), fill=dark)
    elif pattern == "barred":
        for x in np.arange(-1.5 + shift, 1.5, 0.56).tolist():
            draw.rectangle(canvas.box(x, -2, x + 0.23, 2), fill=dark)
    elif pattern == "dotted":
        for row, y in enumerate(np.arange(-1.4 + shift, 1.5, 0.46).tolist()):
            for x in np.arange(-1.6 + 0.23 * (row % 2), 1.6, 0.46).tolist():
                draw.ellipse(canvas.box(x, y, x + 0.25, y + 0.25), fill=dark)
    elif pattern == "ringed":
        draw.ellipse(canvas.box(-0.62, -0.62, 0.62, 0.62), fill=dark)
        draw.ellipse(canvas.box(-0.34, -0.34, 0.34, 0.34), fill=light)
    return skin


def _fauna(canvas: Canvas, attributes: dict[str, str]) -> None:
    """A fish that swims to the right: its tail and fin."""
    canvas.polygon((-0.9, 0), (-1.6, -0.5), (-1.6, 0.5))
    top = {"disc": -0.85, "dart": -0.5, "box": -0.75, "kite": -0.75}[attributes["shape"]]
    if attributes["fin"] == "spiked":
        canvas.polygon((-0.3, top), (0.3, top), (0, top - 1.0))
    elif attributes["fin"] == "sailed":
        canvas.polygon((-1, top - 0.55), (1, top - 0.55), (0.7, top), (-0.7, top))
    elif attributes["fin"] == "crowned":
        for x in (-0.6, 0, 0.6):
            canvas.ellipse(x - 0.2, top - 0.6, x + 0.2, top - 0.2)


def _flora(canvas: Canvas, attributes: dict[str, str]) -> None:
    ((x, _),) = canvas.pixels((canvas.rng.uniform(-0.1, 0.1), 0))
    canvas.draw.line([canvas.centre, (x, DRAWN)], fill=canvas.ink, width=canvas.line)
    if attributes["leaf"] in ("leftleaf", "bothleaf"):
        canvas.ellipse(-1.35, 1.3, -0.1, 2.0)
    if attributes["leaf"] in ("rightleaf", "bothleaf"):
        canvas.ellipse(0.1, 1.3, 1.35, 2.0)


def _vessel(canvas: Canvas, attributes: dict[str, str]) -> None:
    if attributes["handle"] in HANDLES:
        canvas.draw.ellipse(canvas.box(*HANDLES[attributes["handle"]]), outline=canvas.ink, width=canvas.line)
    elif attributes["handle"] == "lidded":
        canvas.draw.rectangle(canvas.box(-0.8, -1.3, 0.8, -1.0), fill=canvas.ink)
        canvas.ellipse(-0.22, -1.65, 0.22, -1.21)


def _moth(canvas: Canvas, attributes: dict[str, str]) -> None:
    antenna = attributes["antenna"]
    for sign in (-1, 1):
        x = sign * 0.55
        if antenna != "bald":
            canvas.draw.line(canvas.pixels((sign * 0.08, -0.6), (x, -1.5)), fill=canvas.ink, width=canvas.line)
        if antenna == "forked":
            fork = canvas.pixels((sign * 0.3, -1.0), (sign * 1.05, -1.25))
            canvas.draw.line(fork, fill=canvas.ink, width=canvas.line)
        elif antenna == "curled":
            x0, x1 = sorted((sign * 0.4, sign * 1.1))
            canvas.draw.arc(canvas.box(x0, -1.75, x1, -1.05), 0, 360, fill=canvas.ink, width=canvas.line)
        elif antenna == "clubbed":
            canvas.ellipse(x - 0.24, -1.74, x + 0.24, -1.26)


def _rocket(canvas: Canvas, attributes: dict[str, str]) -> None:
    if attributes["flame"] == "single":
        canvas.polygon((-0.25, 0.9), (0.25, 0.9), (0, 1.9))
    elif attributes["flame"] == "double":
        for x in (-0.6, 0.6):
            canvas.polygon((x - 0.22, 0.8), (x + 0.22, 0.8), (x, 1.8))
    elif attributes["flame"] == "plume":
        canvas.polygon((-0.4, 0.8), (0.4, 0.8), (1.2, 1.8), (-1.2, 1.8))


DRAW = {"Fauna": _fauna, "Flora": _flora, "Vessel": _vessel, "Moth": _moth, "Rocket": _rocket}
