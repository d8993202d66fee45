"""Draws one image of the world of many trees from its tree and attribute values.

A subject is a body of the tree's own shapes with a colour and a pattern, in front of parts drawn in ink. Other
attributes are shared by trees: the sky, the ground, a mark in the corner, a frame, pips below the body.
"""

import numpy as np
from PIL import Image, ImageDraw

from sekd.embedded.render import DRAWN, SIDE, Box, Canvas, Colour, Point, draw_skin, draw_sky, shaded

Outline = list[Box | list[Point]]  # ellipses by their boxes and polygons by their corners

RGB = {
    "red": (226, 44, 40), "orange": (255, 140, 26), "yellow": (250, 222, 50), "green": (40, 176, 66),
    "teal": (0, 178, 178), "blue": (44, 88, 236), "purple": (170, 80, 245), "pink": (255, 120, 190),
    "white": (248, 248, 244), "brown": (138, 82, 40),
}  # fmt: skip
SKY = {
    "day": (152, 208, 250), "dusk": (150, 64, 92), "night": (8, 10, 30), "dawn": (255, 196, 140)
}  # fmt: skip
GROUND = {"sand": (226, 190, 110), "grass": (60, 150, 50), "snow": (244, 248, 255), "water": (30, 90, 190)}
# Of each tree: the background, the ink of its parts, the height of the body's centre, and the ground it always has.
LOOK: dict[str, tuple[Colour, Colour, float, str | None]] = {
    "Mushroom": ((30, 62, 44), (238, 222, 190), 0.42, "grass"),
    "Shield": ((92, 84, 96), (228, 228, 236), 0.50, None),
    "Boat": (SKY["day"], (250, 240, 210), 0.62, "water"),
    "Lantern": ((34, 22, 44), (214, 176, 90), 0.54, None),
    "Bird": (SKY["day"], (255, 150, 40), 0.50, None),
    "House": (SKY["day"], (120, 230, 120), 0.50, "grass"),
    "Beetle": ((196, 206, 160), (36, 30, 34), 0.52, None),
    "Robot": ((44, 54, 74), (190, 202, 216), 0.46, None),
    "Kite": ((120, 170, 214), (30, 40, 70), 0.38, None),
    "Cake": ((250, 226, 214), (190, 40, 90), 0.58, None),
    "Cactus": ((240, 206, 168), (70, 104, 52), 0.52, None),
    "Crystal": (SKY["night"], (120, 124, 140), 0.50, None),
}


def _around(width: float, height: float, *centres: Point) -> Outline:
    return [(x - width, y - height, x + width, y + height) for x, y in centres]


def _rect(x0: float, y0: float, x1: float, y1: float) -> list[Point]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def _mirrored(*corners: Point) -> list[Point]:
    """The polygon of the right half's corners and of their mirror images."""
    return [*corners, *((-x, y) for x, y in reversed(corners))]


SHAPES: dict[str, Outline] = {
    "flatcap": [_mirrored((1.1, -0.55), (1.4, 0.15))],
    "roundcap": [(-1.0, -1.0, 1.0, 0.55)],
    "conecap": [[(0, -1.4), (1.1, 0.3), (-1.1, 0.3)]],
    "tallcap": [_mirrored((0.45, -1.3), (0.65, 0.3))],
    "heater": [_mirrored((1, -1), (0.95, 0.1), (0, 1.2))],
    "lozenge": [_mirrored((0, -1.3), (1, 0), (0, 1.3))],
    "roundel": [(-1, -1, 1, 1)],
    "hexagon": [_mirrored((0.6, -0.8), (1.25, 0), (0.6, 0.8))],
    "barge": [_rect(-1.4, 0.1, 1.4, 0.8)],
    "canoe": [[(-1.6, -0.1), (-0.9, 0.3), (0.9, 0.3), (1.6, -0.1), (0.9, 0.85), (-0.9, 0.85)]],
    "skiff": [[(-1.0, 0.1), (1.6, 0.1), (0.6, 0.85), (-1.0, 0.85)]],
    "tub": [(-0.95, -0.1, 0.95, 1.0)],
    "globe": [(-1, -0.9, 1, 0.9)],
    "column": [_rect(-0.6, -0.95, 0.6, 0.95)],
    "hourglass": [_mirrored((1, -0.95), (0.3, 0), (1, 0.95))],
    "plump": [(-0.95, -0.9, 0.95, 0.9)],
    "slim": [(-1.15, -0.45, 1.15, 0.45)],
    "arrow": [[(1.0, 0), (-0.9, -0.95), (-0.5, 0), (-0.9, 0.95)]],
    "gull": [[(0, 0.5), (-1.5, -0.5), (-1.2, 0.3), (0, 1.0), (1.2, 0.3), (1.5, -0.5)], (-0.4, -0.2, 0.4, 0.9)],
    "gabled": [_mirrored((0, -1.25), (1.0, -0.35), (1.0, 0.75))],
    "flatroof": [_rect(-1.2, -0.5, 1.2, 0.75)],
    "hut": [(-1.0, -0.95, 1.0, 1.0)],
    "round": [(-0.95, -0.95, 0.95, 0.95)],
    "oblong": [_mirrored((0.55, -1.1), (0.55, 1.1))],
    "pear": [(-0.5, -1.1, 0.5, 0.2), (-1, -0.3, 1, 1.1)],
    "cube": [_rect(-0.85, -0.85, 0.85, 0.75)],
    "trapeze": [_mirrored((0.4, -0.9), (1.15, 0.75))],
    "orb": [(-0.95, -0.95, 0.95, 0.85)],
    "wide": [_rect(-1.4, -0.5, 1.4, 0.5)],
    "diamond": [_mirrored((0, -1.2), (0.85, -0.3), (0, 1.0))],
    "delta": [[(0, -1.1), (1.25, 0.8), (-1.25, 0.8)]],
    "hexkite": [_mirrored((0.9, -0.95), (0.9, 0.8))],
    "arch": [(-1.2, -1.1, 1.2, 0.9)],
    "slab": [_rect(-1.35, 0.0, 1.35, 0.75)],
    "tower": [_rect(-1.2, 0.25, 1.2, 0.85), _rect(-0.65, -0.6, 0.65, 0.3)],
    "wedge": [[(-1.1, 0.8), (1.1, 0.8), (1.1, -0.7)]],
    "dome": [(-1.0, -0.55, 1.0, 0.95)],
    "pillar": [_rect(-0.4, -1.25, 0.4, 1.2)],
    "barrel": [(-0.85, -0.85, 0.85, 1.1)],
    "paddle": [*_around(0.55, 0.6, (0, -0.7), (0, 0.55))],
    "spike": [[(0, -1.35), (0.85, 1.1), (-0.85, 1.1)]],
    "shard": [[(0.15, -1.4), (0.7, 0.2), (0.25, 1.3), (-0.45, 0.6), (-0.4, -0.5)]],
    "prism": [[(0, -1.1), (1.1, 0.9), (-1.1, 0.9)]],
    "cluster": [[(-0.9, -0.7), (-0.4, 0.9), (-1.3, 0.9)], [(0, -1.2), (0.5, 0.9), (-0.5, 0.9)],
                [(0.9, -0.7), (1.3, 0.9), (0.4, 0.9)]],
    "block": [_mirrored((0.9, -0.9), (0.9, 0.9))],
}  # fmt: skip
# What a tree's subject always has, and what its values add, all behind the body.
ALWAYS: dict[str, Outline] = {
    "Mushroom": [_rect(-0.25, 0.0, 0.25, 1.6)],
    "Shield": [_rect(-0.1, -1.5, 0.1, -0.9)],
    "Boat": [_rect(-0.07, -1.1, 0.07, 0.3)],
    "Bird": [[(0.8, -0.35), (1.5, -0.05), (0.8, 0.25)]],
    "Beetle": [_rect(-1.35, y, 1.35, y + 0.13) for y in (-0.5, 0.05, 0.6)],
    "Robot": [_rect(-0.6, 0.6, -0.3, 1.25), _rect(0.3, 0.6, 0.6, 1.25)],
    "Kite": [_rect(-0.04, 0.8, 0.04, 2.4)],
    "Cake": [_rect(-1.6, 0.8, 1.6, 1.0)],
}
PARTS: dict[str, Outline] = {
    "skirted": [[(-0.25, 0.7), (0.25, 0.7), (0.85, 1.15), (-0.85, 1.15)]],
    "bulbous": [(-0.7, 1.0, 0.7, 1.8)],
    "twin": [_rect(0.95, 0.9, 1.2, 1.6), (0.6, 0.55, 1.55, 1.05)],
    "lateen": [[(0.1, -1.4), (1.2, 0.0), (0.1, 0.0)]],
    "schooner": [[(0.15, -1.4), (1.2, 0.0), (0.15, 0.0)], [(-0.15, -1.4), (-1.2, 0.0), (-0.15, 0.0)]],
    "square": [_rect(-0.85, -1.4, 0.85, -0.3)],
    "hooked": [(-0.5, -1.75, 0.5, -0.75)],
    "chained": _around(0.2, 0.2, (0, -1.0), (0, -1.4), (0, -1.8)),
    "roofed": [[(0, -1.6), (1.3, -0.85), (-1.3, -0.85)]],
    "fantail": [[(-0.6, 0), (-1.75, -0.8), (-1.75, 0.8)]],
    "longtail": [_rect(-1.9, -0.15, -0.5, 0.15)],
    "onechimney": [_rect(0.4, -1.4, 0.8, 0)],
    "twochimney": [_rect(-0.8, -1.4, -0.4, 0), _rect(0.4, -1.4, 0.8, 0)],
    "unicorn": [[(-0.25, -0.7), (0.25, -0.7), (0, -1.8)]],
    "twohorn": [[(0.2, -0.6), (0.6, -0.6), (0.95, -1.7)], [(-0.2, -0.6), (-0.6, -0.6), (-0.95, -1.7)]],
    "single": [_rect(-0.08, -1.4, 0.08, -0.5), (-0.25, -1.75, 0.25, -1.25)],
    "pair": [_rect(-0.68, -1.4, -0.52, -0.4), _rect(0.52, -1.4, 0.68, -0.4),
             *_around(0.22, 0.22, (-0.6, -1.5), (0.6, -1.5))],
    "ribbon": [_rect(-0.16, 0.9, 0.16, 2.4)],
    "bows": _around(0.4, 0.17, (0, 1.25), (0, 1.7), (0, 2.15)),
    "forktail": [[(0, 0.8), (0.9, 2.3), (0.5, 2.3)], [(0, 0.8), (-0.9, 2.3), (-0.5, 2.3)]],
    "onecandle": [_rect(-0.13, -1.5, 0.13, 0.5)],
    "twocandle": [_rect(x - 0.13, -1.5, x + 0.13, 0.6) for x in (-0.4, 0.4)],
    "threecandle": [_rect(x - 0.13, -1.5, x + 0.13, 0.6) for x in (-0.75, 0, 0.75)],
    "onearm": [_rect(-1.4, 0.1, 0, 0.4), _rect(-1.4, -0.6, -1.1, 0.4)],
    "twoarm": [_rect(-1.4, 0.1, 1.4, 0.4), _rect(-1.4, -0.6, -1.1, 0.4), _rect(1.1, -0.6, 1.4, 0.4)],
}  # fmt: skip


def render(tree: str, attributes: dict[str, str], rng: np.random.Generator) -> Image.Image:
    """An RGB image of ``SIDE`` x ``SIDE`` pixels; ``rng`` varies position, size, shade and texture."""
    sky, ink, height, ground = LOOK[tree]
    sky = SKY.get(attributes.get("sky", ""), sky)
    canvas = Canvas(draw_sky(sky, sky, rng), ink, height, rng)
    if strip := GROUND.get(attributes.get("ground", ground or "")):
        canvas.draw.rectangle([0, 0.82 * DRAWN, DRAWN, DRAWN], fill=shaded(strip, rng))
    parts = [PARTS.get(value, []) for value in attributes.values()]
    _fill(canvas, canvas.draw, [*ALWAYS.get(tree, []), *(each for part in parts for each in part)], ink)
    mask = Image.new("L", canvas.image.size, 0)
    _fill(canvas, ImageDraw.Draw(mask), SHAPES[attributes["shape"]], 255)
    colour = RGB[attributes.get("colour", "brown" if tree == "Boat" else "white")]
    skin = draw_skin(attributes.get("pattern", "plain"), shaded(colour, rng), canvas)
    canvas.image.paste(skin, (0, 0), mask)
    _overlay(canvas, attributes, ink)
    return canvas.image.resize((SIDE, SIDE), Image.Resampling.BOX)


def _fill(canvas: Canvas, draw: ImageDraw.ImageDraw, outline: Outline, fill: Colour | int) -> None:
    for each in outline:
        if isinstance(each, tuple):
            draw.ellipse(canvas.box(*each), fill=fill)
        else:
            draw.polygon(canvas.pixels(*each), fill=fill)


def _overlay(canvas: Canvas, attributes: dict[str, str], ink: tuple[int, int, int]) -> None:
    """What is drawn at a fixed place of the image, not of the body."""

    def dot(x: float, y: float, size: float, fill: Colour) -> None:
        canvas.draw.ellipse([DRAWN * (x - size), DRAWN * (y - size), DRAWN * (x + size), DRAWN * (y + size)], fill=fill)

    count = {"one": 1, "two": 2, "three": 3}.get(attributes.get("pips", ""), 0)
    for number in range(count):
        dot(0.5 + 0.2 * (number - (count - 1) / 2), 0.9, 0.065, (250, 250, 250))
    if attributes.get("corner") == "sun":
        dot(0.86, 0.14, 0.1, (255, 214, 0))
    elif attributes.get("corner") == "moon":
        dot(0.86, 0.14, 0.1, (60, 60, 120))
        dot(0.83, 0.12, 0.06, (240, 206, 168))
    if attributes.get("frame") == "framed":
        canvas.draw.rectangle([0, 0, DRAWN, DRAWN], outline=(250, 250, 250), width=round(0.06 * DRAWN))
