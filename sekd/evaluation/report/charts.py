"""The report's kinds of plots, as SVG panels about 340 units wide: several stand side by side or below each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sekd.evaluation.report.svg import MARKS, Scale, element, label, mark, path, picture, tick_text, ticks

WIDTH = 340.0


@dataclass(frozen=True)
class Series:
    """A line: ``ys[i]`` at ``xs[i]``, None where there is nothing to show; ``lows``/``highs`` bound it when given."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    style: int
    lows: Sequence[float | None] = ()
    highs: Sequence[float | None] = ()

    def points(self) -> list[tuple[float, float]]:
        return [(x, y) for x, y in zip(self.xs, self.ys, strict=True) if y is not None]


@dataclass(frozen=True)
class Axis:
    """A labelled range. ``names`` (one for each whole number from ``low`` up) replaces the numbers of the ticks."""

    title: str
    low: float
    high: float
    names: Sequence[str] = field(default_factory=tuple)

    def marks(self) -> list[tuple[float, str]]:
        if self.names:
            return [(float(i), name) for i, name in enumerate(self.names)]
        return [(value, tick_text(value)) for value in ticks(self.low, self.high)]


@dataclass(frozen=True)
class Interval:
    """One row of an interval plot: an estimate and its bounds, or None where there is none."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    style: int


def line_panel(*, key: str, title: str, description: str, x: Axis, y: Axis, series: Sequence[Series]) -> str:
    """Lines with marks and, where they have bounds, whiskers."""
    height, left, right, top, bottom = 250.0, 46.0, 14.0, 28.0, 46.0
    pad = 0.25 if x.names else 0.0
    to_x = Scale(x.low - pad, x.high + pad, left, WIDTH - right)
    to_y = Scale(y.low, y.high, height - bottom, top)
    body = [label(title, 0, 13, class_="panel-title"), _frame(x, y, to_x, to_y)]
    dense = max((len(line.xs) for line in series), default=0) > 20
    for line in series:
        points = [(to_x(a), to_y(min(max(b, y.low), y.high))) for a, b in line.points()]
        if not points:
            continue
        parts = [_whisker(to_x(a), to_y(low), to_y(high)) for a, low, high in _bounds(line)]
        parts.append(path(points, class_="line"))
        shown = points[:: max(1, len(points) // 6)] if dense else points
        parts += [mark(MARKS[line.style % len(MARKS)], a, b, size=3.2 if dense else 4.2) for a, b in shown]
        body.append(element("g", "".join(parts), class_=f"s{line.style}"))
    return picture("".join(body), width=WIDTH, height=height, title=title, description=description, key=key)


def interval_panel(*, key: str, title: str, description: str, x: Axis, rows: Sequence[Interval]) -> str:
    """Estimates as marks with horizontal whiskers, one row each, with the figure written at the right."""
    left, right, top, step = 128.0, 46.0, 26.0, 24.0
    height = top + step * len(rows) + 40.0
    to_x = Scale(x.low, x.high, left, WIDTH - right)
    body = [label(title, 0, 13, class_="panel-title")]
    for value, name in x.marks():
        body.append(_line(to_x(value), top, to_x(value), height - 38, "grid"))
        body.append(label(name, to_x(value), height - 24, class_="tick", text_anchor="middle"))
    body.append(label(x.title, (left + WIDTH - right) / 2, height - 6, class_="axis", text_anchor="middle"))
    for i, row in enumerate(rows):
        middle = top + step * (i + 0.5)
        body.append(label(shorten(row.name, 21), left - 10, middle + 4, class_="tick", text_anchor="end"))
        body.append(_interval_row(row, middle, to_x))
    return picture("".join(body), width=WIDTH, height=height, title=title, description=description, key=key)


def reliability_panel(
    *, key: str, title: str, description: str, bins: Sequence[tuple[float, float, int]], style: int
) -> str:
    """Accuracy (percent) against stated confidence (percent) a bin, mark area by the bin's share of the answers.

    ``bins`` holds (mean confidence, accuracy, count), confidence and accuracy in percent.
    """
    height, left, right, top, bottom = 300.0, 46.0, 14.0, 28.0, 46.0
    axis_x, axis_y = Axis("stated confidence (%)", 0, 100), Axis("accuracy (%)", 0, 100)
    to_x, to_y = Scale(0, 100, left, WIDTH - right), Scale(0, 100, height - bottom, top)
    total = sum(count for _, _, count in bins) or 1
    body = [
        label(title, 0, 13, class_="panel-title"),
        _frame(axis_x, axis_y, to_x, to_y),
        _line(to_x(0), to_y(0), to_x(100), to_y(100), "diagonal"),
    ]
    marks = [
        mark(MARKS[style % len(MARKS)], to_x(stated), to_y(right_), size=3 + 9 * (count / total) ** 0.5)
        for stated, right_, count in bins
    ]
    lines = path([(to_x(stated), to_y(right_)) for stated, right_, _ in bins], class_="line") if bins else ""
    body.append(element("g", lines + "".join(marks), class_=f"s{style} soft"))
    return picture("".join(body), width=WIDTH, height=height, title=title, description=description, key=key)


def shorten(name: str, longest: int) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _frame(x: Axis, y: Axis, to_x: Scale, to_y: Scale) -> str:
    left, right, floor, ceiling = to_x.start, to_x.end, to_y.start, to_y.end
    body = []
    for value, name in y.marks():
        body.append(_line(left, to_y(value), right, to_y(value), "grid"))
        body.append(label(name, left - 7, to_y(value) + 4, class_="tick", text_anchor="end"))
    x_marks = x.marks()
    room = max(4, int((right - left) / max(1, len(x_marks)) / 6.4))
    for value, name in x_marks:
        body.append(label(shorten(name, room), to_x(value), floor + 17, class_="tick", text_anchor="middle"))
    body.append(_line(left, floor, right, floor, "base"))
    body.append(label(x.title, (left + right) / 2, floor + 37, class_="axis", text_anchor="middle"))
    turn = f"rotate(-90 11 {(floor + ceiling) / 2:.2f})"
    body.append(label(y.title, 11, (floor + ceiling) / 2, class_="axis", text_anchor="middle", transform=turn))
    return element("g", "".join(body))


def _interval_row(row: Interval, middle: float, to_x: Scale) -> str:
    if row.value is None:
        return label("not scored", to_x.start + 4, middle + 4, class_="tick")
    parts = []
    if row.low is not None and row.high is not None:
        low, high = to_x(max(row.low, to_x.low)), to_x(min(row.high, to_x.high))
        parts.append(_line(low, middle, high, middle, "whisker"))
        parts += [_line(end, middle - 4, end, middle + 4, "whisker") for end in (low, high)]
    at = to_x(min(max(row.value, to_x.low), to_x.high))
    parts.append(mark(MARKS[row.style % len(MARKS)], at, middle, size=5))
    figure = label(f"{row.value:.1f}", WIDTH, middle + 4, class_="figure", text_anchor="end")
    return element("g", "".join(parts), class_=f"s{row.style}") + figure


def _bounds(line: Series) -> list[tuple[float, float, float]]:
    rows = zip(line.xs, line.lows, line.highs, strict=False)
    return [(x, low, high) for x, low, high in rows if low is not None and high is not None]


def _whisker(x: float, low: float, high: float) -> str:
    return _line(x, low, x, high, "whisker")


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)
