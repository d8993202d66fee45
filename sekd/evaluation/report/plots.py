"""The plots, drawn by matplotlib. ``svg`` embeds one in the page, in the page's light and dark colours.

Series differ by marker and dashes, not only by colour.
"""

import hashlib
import io
import math
import re
import textwrap
import warnings
from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# The light colours by their names in style.css, which also has the dark ones.
SERIES = ("#b8460e", "#6f4fb3", "#0a7a70", "#1659b5", "#8a6500", "#a1266b")
COLOURS = {f"s{i}": colour for i, colour in enumerate(SERIES)}
COLOURS |= {"ink": "#1b1f24", "soft": "#55606d", "rule": "#d5dae0", "paper": "#ffffff"}
MARKS = ("o", "s", "^", "D", "X", "P")
DASHES: tuple[Any, ...] = ("--", ":", (0, (6, 2)), "-", "-.", (0, (1, 1.4)))
COLUMNS = 3  # panels side by side
WIDTH = 3.9  # inches a panel
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, for search and screen readers
    "svg.hashsalt": "sekd",  # the same plot gives the same file
    "text.parse_math": False,  # no math markup in names
    "font.family": "DejaVu Sans",  # part of matplotlib, so sizes are the same on every machine
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": COLOURS["rule"],
    **dict.fromkeys(("text.color", "xtick.labelcolor", "ytick.labelcolor"), COLOURS["ink"]),
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), COLOURS["soft"]),
    "lines.linewidth": 1.5,
    "lines.markersize": 6,
    "lines.markeredgecolor": COLOURS["paper"],
    "lines.markeredgewidth": 0.6,
    **dict.fromkeys(("xtick.bottom", "ytick.left"), False),  # the grid shows where a number is
}


class Interval(NamedTuple):
    """An estimate with its bounds; None where there is none."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    style: int


class Line(NamedTuple):
    """``ys[i]`` at ``xs[i]``, None where there is nothing to show, and the bounds of its interval, if it has one."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    style: int
    intervals: Sequence[tuple[float, float]] = ()


def intervals(panels: Mapping[str, Sequence[Interval]], xlabel: str, *, limits: tuple[float, float]) -> Figure:
    """A panel a title: one row an estimate, its interval as a whisker and its figure at the right."""
    with rc_context(STYLE):
        figure, grid = _panels(panels, height=0.95 + 0.27 * max(map(len, panels.values()), default=0))
        for axes, rows in zip(grid, panels.values(), strict=True):
            axes.set(xlabel=xlabel, ylim=(max(1, len(rows)) - 0.5, -0.5), yticks=range(len(rows)))
            axes.set_xlim(limits[0] - 0.03 * (limits[1] - limits[0]), limits[1] + 0.03 * (limits[1] - limits[0]))
            axes.set_yticklabels([_short(row.name, 28) for row in rows])
            axes.spines["left"].set_visible(False)
            axes.grid(visible=False, axis="y")
            for place, row in enumerate(rows):
                _draw_interval(axes, place, row)
    return figure


def _draw_interval(axes: Axes, place: int, row: Interval) -> None:
    at_side = axes.get_yaxis_transform()
    if row.value is None:
        axes.text(0.02, place, "not scored", transform=at_side, va="center", style="italic")
        return
    whisker = None
    if row.low is not None and row.high is not None:
        # A mean can be outside its interval by rounding; a whisker's length must not be negative.
        whisker = [[max(0.0, row.value - row.low)], [max(0.0, row.high - row.value)]]
    axes.errorbar(row.value, place, xerr=whisker, capsize=3, clip_on=False, **_look(row.style))
    axes.text(1.03, place, f"{row.value:.1f}", transform=at_side, va="center", weight="bold")


def lines(
    panels: Mapping[str, Sequence[Line]],
    xlabel: str,
    ylabel: str | Mapping[str, str],
    *,
    names: Sequence[str] = (),
    limits: tuple[float, float] | None = None,
) -> Figure:
    """A panel a title: lines over common axes, with one legend.

    Args:
        ylabel: of all panels, or of each by its title.
        names: labels at x = 0, 1, …, instead of numbers.
        limits: of y; None fits them to the values and 0.
    """
    with rc_context(STYLE):
        figure, grid = _panels(panels, height=2.75)
        shown: dict[str, Any] = {}
        for axes, (title, found) in zip(grid, panels.items(), strict=True):
            axes.set(xlabel=xlabel, ylabel=ylabel if isinstance(ylabel, str) else ylabel[title])
            for line in found:
                ys = [math.nan if y is None else y for y in line.ys]
                every = max(1, len(ys) // 6) if len(ys) > 20 else 1
                look = {**_look(line.style), "ls": DASHES[line.style]}
                [shown[line.name]] = axes.plot(line.xs, ys, markevery=every, clip_on=False, **look)
                if line.intervals:
                    lows, highs = zip(*line.intervals, strict=True)
                    axes.vlines(line.xs, lows, highs, color=look["color"], alpha=0.5, lw=1)
            if names:
                axes.set_xticks(range(len(names)), [_short(name, 60 // len(names)) for name in names])
            if limits:
                axes.set_ylim(*limits)
            elif min((y for line in found for y in line.ys if y is not None), default=0.0) >= 0:
                axes.set_ylim(bottom=0)
        columns = 2 * min(COLUMNS, len(panels)) - 1
        figure.legend(shown.values(), shown, loc="outside upper left", ncols=columns, frameon=False, handlelength=3)
    return figure


def reliability(panels: Mapping[str, tuple[Sequence[Mapping[str, float]], int]]) -> Figure:
    """A panel a title: accuracy against stated confidence; a mark's area is its bin's share of the answers.

    Args:
        panels: title -> bins with "confidence" and "accuracy" in percent and "count", and the style.
    """
    with rc_context(STYLE):
        figure, grid = _panels(panels, height=3.35)
        for axes, (bins, style) in zip(grid, panels.values(), strict=True):
            axes.set(xlabel="stated confidence (%)", ylabel="accuracy (%)", xlim=(0, 100), ylim=(0, 100))
            axes.plot([0, 100], [0, 100], color=COLOURS["soft"], ls=":", lw=1)
            stated, right, counts = ([each[key] for each in bins] for key in ("confidence", "accuracy", "count"))
            area = [15 + 250 * count / sum(counts) for count in counts]
            axes.plot(stated, right, color=SERIES[style], ls=DASHES[style])
            axes.scatter(stated, right, area, alpha=0.55, clip_on=False, **_look(style))
    return figure


def svg(figure: Figure, title: str) -> str:
    """The figure as an SVG element for the page; the title is unique on it, and is read aloud."""
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    drawn = _saved(figure, format="svg", transparent=True, metadata=no_metadata).decode()
    drawn = drawn[drawn.index("<svg") :]
    for name, colour in COLOURS.items():
        drawn = drawn.replace(f": {colour}", f": var(--{name})")
    key = hashlib.sha256(title.encode()).hexdigest()[:8]
    drawn = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>p{key}-", drawn)
    # Remove what the page does not need: names of groups, fonts, rotations by 0, line breaks.
    drawn = re.sub(r'(?<=<g) id="[^"]*"| font-family: [^;"]*;| transform="rotate\(-0 [^"]*"|(?<=>)\s+(?=<)', "", drawn)
    words = escape(f"{title}. The same numbers stand in the table below.")
    return drawn.replace("<svg ", f'<svg class="plot" role="img" aria-label="{words}" ', 1)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, for places that show no SVG. Equal figures give equal bytes."""
    return _saved(figure, format="png", dpi=150, metadata={"Software": None})


def _saved(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with rc_context(STYLE), warnings.catch_warnings():
        # matplotlib's fonts may lack letters; of an SVG the browser's fonts draw the text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, **options)
    return buffer.getvalue()


def _panels(titles: Collection[str], *, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(COLUMNS, len(titles))
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(WIDTH * columns, height * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in grid[len(titles) :]:
        spare.remove()
    for axes, title in zip(grid, titles, strict=False):
        axes.set_title(textwrap.fill(title, 42, max_lines=2, placeholder="…"))
        axes.locator_params(nbins=4)
    return figure, grid[: len(titles)]


def _look(style: int) -> dict[str, Any]:
    return {"color": SERIES[style], "marker": MARKS[style]}


def _short(name: str, longest: int) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"
