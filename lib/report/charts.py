"""The pictures of the report: small SVGs by matplotlib that take the page's font and, in light and dark, its colours.

matplotlib is told stand-in colours, which become CSS variables afterwards. A chart is drawn for 360 px, so that it can
be read on a phone; headings, legends and every text that comes from a user are the page's, not the chart's.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from lib import plot
from lib.plot import SPREAD_FOR_LOG, Curve
from lib.report.statistics import Summary

INCHES, FONT = (5.0, 3.3), 11  # 360 x 238 px
COLOURS = 8  # --c0 to --c7 of the page; then again
MARKERS = "osD^vPX*"
STEPS = (1, 2, 2.5, 5, 10)  # between two ticks, times a power of ten
INK, PALE, GRID = "#0000b0", "#0000b1", "#0000b2"
ROLES = {INK: "currentColor", PALE: "var(--pale)", GRID: "var(--grid)"} | {
    f"#0000c{number}": f"var(--c{number})" for number in range(COLOURS)
}
MOST_POINTS = 48  # of a curve: more can't be seen on 360 px
ATTRIBUTES = re.compile(r'\b(d|x|y|transform|width|height|points)="([^"]*)"')
STYLE = {"svg.fonttype": "none", "font.size": FONT, "text.parse_math": False, "axes.unicode_minus": True}


@dataclass(frozen=True)
class Series:
    """Values of one kind, drawn in the colour of this number."""

    colour: int
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] = ()  # of y, up and down


@dataclass(frozen=True)
class Band:
    """Curves of several seeds: their mean over `steps` and, from two on, all between the lowest and the highest."""

    colour: int
    steps: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def band(curves: Sequence[Curve], colour: int, scale: float) -> Band:
    """The curves, times `scale`, at common steps: as far as the shortest goes, each a line between its points."""
    first = max(curve.steps[0] for curve in curves)
    last = max(first, min(curve.steps[-1] for curve in curves))
    known = np.unique(np.concatenate([np.asarray(curve.steps, dtype=np.float64) for curve in curves]))
    steps = known[(known >= first) & (known <= last)]
    if len(steps) > MOST_POINTS:
        steps = np.linspace(first, last, MOST_POINTS)
    rows = scale * np.stack([np.interp(steps, curve.steps, curve.values) for curve in curves])  # (seeds, steps)
    return Band(colour, steps, rows.mean(axis=0), rows.min(axis=0), rows.max(axis=0))


def sparsity(series: Sequence[Series], whole: Summary | None, *, y: str, name: str) -> str:
    """Quality against the share of weights that are gone [%], with a standard deviation up and down.

    `whole` is the quality of what was not pruned: a line across, with its deviation.
    """
    figure, axes = _chart("sparsity [%]", y)
    if whole:
        axes.axhline(whole.mean, color=PALE, linewidth=1.2, linestyle=(0, (4, 3)))
        if whole.std:
            axes.axhspan(whole.mean - whole.std, whole.mean + whole.std, color=PALE, alpha=0.13, linewidth=0)
    _draw(axes, series, linewidth=1.6)
    axes.set_xlim(-4, 104)
    return _svg(figure, name)


def front(series: Sequence[Series], numbered: Series, *, higher: bool, x: str, y: str, name: str) -> str:
    """Quality (`higher`: is better) against a cost; a dotted line is the best that can be had for so much or less.

    The points of `numbered` get their place in it.
    """
    figure, axes = _chart(x, y)
    _draw(axes, series, linewidth=0)
    right, up = np.array(sorted(((a, b) for one in series for a, b in zip(one.x, one.y, strict=True)))).T
    best = (np.maximum if higher else np.minimum).accumulate(up)
    axes.plot(right, best, color=INK, linewidth=1, linestyle=(0, (1, 2)), drawstyle="steps-post", zorder=1)
    for number, point in enumerate(zip(numbered.x, numbered.y, strict=True), 1):
        axes.annotate(str(number), point, (5, 5), textcoords="offset points", color=INK)
    axes.margins(0.1)
    if right.min() > 0 and right.max() > SPREAD_FOR_LOG * right.min():
        plot.logarithmic(axes, "x")
    return _svg(figure, name)


def curves(bands: Sequence[Band], *, logarithmic: bool, y: str, name: str) -> str:
    """Means over seeds with their range, by step; `logarithmic` where that shows more."""
    figure, axes = _chart("step", y)
    for one in bands:
        colour = _colour(one.colour)
        if np.any(one.high > one.low):
            axes.fill_between(one.steps, one.low, one.high, color=colour, alpha=0.18, linewidth=0)
        dot = "o" if len(one.steps) == 1 else ""
        axes.plot(one.steps, one.mean, color=colour, linewidth=1.6, marker=dot, markersize=4)
    values = np.concatenate([one.low for one in bands] + [one.high for one in bands])
    if logarithmic and values.min() > 0 and values.max() > SPREAD_FOR_LOG * values.min():
        plot.logarithmic(axes, "y")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    return _svg(figure, name)


def _chart(x: str, y: str) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(INCHES)
        axes = figure.add_axes((0.13, 0.17, 0.84, 0.73))
        axes.set_title(y, loc="left", fontsize=FONT, color=PALE, x=-0.13)
        axes.set_xlabel(x, color=PALE)
        axes.patch.set_visible(False)
        figure.patch.set_visible(False)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(GRID)
        axes.tick_params(which="both", colors=PALE, length=0)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    return figure, axes


def _draw(axes: Axes, series: Sequence[Series], *, linewidth: float) -> None:
    for one in series:
        axes.errorbar(
            one.x, one.y, yerr=one.error or None, color=_colour(one.colour), linewidth=linewidth, elinewidth=1.2,
            capsize=2.5, marker=MARKERS[one.colour % COLOURS], markersize=5,
        )  # fmt: skip


def _colour(number: int) -> str:
    return f"#0000c{number % COLOURS}"


def _svg(figure: Figure, name: str) -> str:
    """The figure as an element of the page, with names of its own and the colours of the page."""
    target = io.StringIO()
    told = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        FigureCanvasSVG(figure)
        figure.savefig(target, format="svg", metadata=told)
    text = target.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style type.*?</style>", "", text, flags=re.S)
    text = re.sub(r' transform="rotate\(-0[^"]*"|<defs>\s*</defs>|<g id="[^"]*"/>', "", text)
    text = re.sub(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", r'<svg \1 aria-hidden="true">', text, count=1)
    named = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in named else "", text)
    text = ATTRIBUTES.sub(lambda found: f'{found[1]}="{_short(found[2])}"', text).replace("xlink:href", "href")
    text = re.sub(r'style="([^"]*)"', lambda found: f'style="{_plain(found[1])}"', text)
    for colour, role in ROLES.items():
        text = text.replace(colour, role)
    return re.sub(r">\s+<", "><", text).strip()


def _short(path: str) -> str:
    """Numbers with one digit, and no space that a reader of SVG does not need."""
    path = re.sub(r"-?\d+\.\d+(?:e-?\d+)?", lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), path)
    return re.sub(r"\s*([MLCQZz])\s*", r"\1", path).strip()


def _plain(style: str) -> str:
    """Without spaces, and in the page's font."""
    size = re.sub(
        r"font: [\w ]*?([\d.]+)px [^;]*|font-size: ([\d.]+)px; font-family: [^;]*", r"font-size: \1\2px", style
    )
    return size.replace(": ", ":").replace("; ", ";")
