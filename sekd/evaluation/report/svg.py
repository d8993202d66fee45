"""Small drawings in SVG: scales, axes, lines with marks, intervals. Knows nothing about what is drawn.

Colours, dashes and fonts come from the page's style sheet through classes (``s0`` … ``s5``), so that one drawing
serves light, dark and print. Every series has its own mark shape and dash as well: colour is never alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

MARKS = ("circle", "square", "triangle", "diamond", "cross", "ring")


def element(tag: str, content: str = "", /, **attributes: object) -> str:
    """One SVG element; ``class_`` and ``text_anchor`` name the attributes ``class`` and ``text-anchor``."""
    parts = [f' {name.strip("_").replace("_", "-")}="{escape(_text(value))}"' for name, value in attributes.items()]
    return f"<{tag}{''.join(parts)}>{content}</{tag}>"


def label(text: str, /, x: float, y: float, **attributes: object) -> str:
    return element("text", escape(text), x=x, y=y, **attributes)


def _text(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Scale:
    """Maps the numbers ``low … high`` to the pixels ``start … end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, *, wanted: int = 5) -> list[float]:
    """Round numbers that cover ``low … high``, about ``wanted`` of them, a step of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def tick_text(value: float) -> str:
    return f"{value:g}"


def mark(shape: str, x: float, y: float, *, size: float = 4.5, **attributes: object) -> str:
    """A series mark centred at a point: circle, square, triangle, diamond, cross or ring."""
    s = size
    if shape in ("circle", "ring"):
        kind = "mark hollow" if shape == "ring" else "mark"
        return element("circle", cx=x, cy=y, r=s, class_=kind, **attributes)
    corners = {
        "square": [(-s, -s), (s, -s), (s, s), (-s, s)],
        "triangle": [(0, -s * 1.2), (s * 1.1, s * 0.9), (-s * 1.1, s * 0.9)],
        "diamond": [(0, -s * 1.3), (s * 1.3, 0), (0, s * 1.3), (-s * 1.3, 0)],
    }
    if shape == "cross":
        d = f"M{x - s:.2f} {y - s:.2f}L{x + s:.2f} {y + s:.2f}M{x - s:.2f} {y + s:.2f}L{x + s:.2f} {y - s:.2f}"
        return element("path", d=d, class_="mark stroke", **attributes)
    points = " ".join(f"{x + dx:.2f},{y + dy:.2f}" for dx, dy in corners[shape])
    return element("polygon", points=points, class_="mark", **attributes)


def path(points: Sequence[tuple[float, float]], **attributes: object) -> str:
    """A line through the points, in order."""
    d = "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points)
    return element("path", d=d, **attributes)


def picture(body: str, *, width: float, height: float, title: str, description: str, key: str) -> str:
    """The whole drawing, told to a screen reader by its title and description. ``key`` is unique on the page."""
    head = element("title", escape(title), id=f"{key}-t") + element("desc", escape(description), id=f"{key}-d")
    return element(
        "svg",
        head + body,
        viewBox=f"0 0 {_text(width)} {_text(height)}",
        role="img",
        aria_labelledby=f"{key}-t {key}-d",
        class_="plot",
    )


def key_mark(style: int) -> str:
    """The sample of a series' line and mark that stands in a legend beside its name."""
    body = path([(0, 7), (28, 7)], class_="line") + mark(MARKS[style % len(MARKS)], 14, 7, size=4)
    return element(
        "svg", element("g", body, class_=f"s{style}"), viewBox="0 0 28 14", width=28, height=14, aria_hidden="true"
    )
