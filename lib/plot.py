"""Pictures of a run: its learning curves as a PNG that can be read at a glance."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from lib.journal import lines

SIZE_INCHES, DPI = (10.667, 6.0), 150  # 1600 x 900 pixels
INK, PALE, GRID = "#1f2933", "#7b8794", "#e4e7eb"
TRAIN, VAL, RATE = "#8aa2ba", "#1f5fbf", "#c05621"
SMOOTH_FROM = 60  # points: a curve with more also gets a moving mean
SPREAD_FOR_LOG = 20  # largest / smallest value from which a logarithmic axis shows more


class Point(Protocol):
    """Values by name at one step, as the journal has them."""

    @property
    def step(self) -> int: ...
    @property
    def values(self) -> Mapping[str, object]: ...


@dataclass(frozen=True)
class Curve:
    """The finite numbers that were logged under one name, and the steps they belong to."""

    steps: list[int]
    values: list[float]


def learning_curves(folder: Path, path: Path) -> None:
    """Write the learning curves of the run in `folder` to `path`, a PNG of 1600 x 900 pixels."""
    save(draw(lines.read(folder), folder.name), path)


def save(figure: Figure, path: Path) -> Path:
    """Write it as a PNG to `path`, whole or not at all."""
    part = path.with_name(path.name + ".part")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in letters that the font lacks
        figure.savefig(part, format="png")
    part.replace(path)
    return path


def draw(points: Iterable[Point], title: str) -> Figure:
    """Training and validation loss, beside it accuracy or perplexity, and the learning rate; one run, named `title`."""
    points = list(points)
    train, val, rate = (curve(points, name) for name in ("train_loss", "val_loss", "learning_rate"))
    metric = "val_accuracy" if any("val_accuracy" in point.values for point in points) else "val_perplexity"
    figure = sheet(title)
    grid = figure.add_gridspec(3, 2, width_ratios=(1.7, 1))
    _loss(figure.add_subplot(grid[:, 0]), train, val)
    _metric(figure.add_subplot(grid[:2, 1]), metric, curve(points, metric))
    _rate(figure.add_subplot(grid[2, 1]), rate)
    last = max([1, *(point.step for point in points)])
    for axes in figure.axes:
        axes.set_xlim(-0.03 * last, 1.03 * last)
    return figure


def curve(points: Iterable[Point], name: str) -> Curve:
    """What was logged as `name`; points without it, and values that are no finite number, are left out."""
    found = [(point.step, point.values.get(name)) for point in points]
    kept = [
        (step, float(v))
        for step, v in found
        if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
    ]
    return Curve([step for step, _ in kept], [value for _, value in kept])


def smoothed(values: list[float]) -> list[float]:
    """The mean around each value over a twentieth of the curve; towards the ends over less, as far to both sides."""
    reaches = (min(len(values) // 40, i, len(values) - 1 - i) for i in range(len(values)))
    windows = (values[i - reach : i + reach + 1] for i, reach in enumerate(reaches))
    return [sum(window) / len(window) for window in windows]


def sheet(title: str, *, height_inches: float = SIZE_INCHES[1]) -> Figure:
    """A figure without panels yet."""
    layout = ConstrainedLayoutEngine(rect=(0.012, 0.012, 0.97, 0.97), w_pad=0.1, h_pad=0.1)
    figure = Figure((SIZE_INCHES[0], height_inches), DPI, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)  # the object interface: no global state, no window
    figure.suptitle(title, x=0.02, ha="left", fontsize=14, fontweight="bold", color=INK)
    return figure


def panel(axes: Axes, title: str, *, above: float = 6) -> None:
    """How every panel looks: its title `above` the axes [points], which are a pale grid."""
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=above)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(which="both", colors=PALE, labelsize=9, length=0)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def logarithmic(axes: Axes, which: Literal["x", "y"]) -> None:
    """Make this axis logarithmic, with plain numbers at 1, 2 and 5."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _loss(axes: Axes, train: Curve, val: Curve) -> None:
    _by_step(axes, "Loss [nats]", empty=not (train.values or val.values))
    noisy = len(train.values) >= SMOOTH_FROM
    if noisy:
        axes.plot(train.steps, train.values, color=TRAIN, linewidth=0.8, alpha=0.45)
    _line(axes, Curve(train.steps, smoothed(train.values) if noisy else train.values), TRAIN, "train")
    _line(axes, val, VAL, "validation", dots=True)
    if val.values:
        best = min(range(len(val.values)), key=val.values.__getitem__)
        said = f"best validation loss {val.values[best]:.4f} at step {val.steps[best]:,}"
        axes.set_title(said, loc="right", fontsize=9, color=VAL)
    _scale(axes, train.values + val.values)
    if train.values or val.values:
        axes.legend(frameon=False, loc="upper right", labelcolor=INK)


def _metric(axes: Axes, name: str, values: Curve) -> None:
    accuracy = name == "val_accuracy"
    _by_step(axes, "Validation accuracy" if accuracy else "Validation perplexity", empty=not values.values)
    _line(axes, values, VAL, name, dots=True)
    if not values.values:
        return
    last = values.values[-1]
    axes.set_title(f"{last:.2%}" if accuracy else f"{last:.2f}", loc="right", fontsize=11, color=VAL, fontweight="bold")
    if accuracy:
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        margin = 0.04 * (1.0 - min(values.values)) + 0.001
        axes.set_ylim(min(values.values) - margin, 1.0 + margin)
    else:
        _scale(axes, values.values)


def _rate(axes: Axes, rate: Curve) -> None:
    _by_step(axes, "Learning rate", empty=not rate.values)
    _line(axes, rate, RATE, "learning rate")
    if rate.values:
        axes.fill_between(rate.steps, rate.values, color=RATE, alpha=0.12, linewidth=0)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _line(axes: Axes, values: Curve, color: str, label: str, *, dots: bool = False) -> None:
    dotted = (dots and len(values.steps) <= SMOOTH_FROM) or len(values.steps) == 1  # one point alone makes no line
    axes.plot(
        values.steps, values.values, color=color, linewidth=2, marker="o" if dotted else "", markersize=4, label=label
    )


def _by_step(axes: Axes, title: str, *, empty: bool) -> None:
    panel(axes, title)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.set_xlabel("step", color=PALE)
    if empty:
        axes.text(0.5, 0.5, "no points yet", transform=axes.transAxes, ha="center", va="center", color=PALE)
        axes.set(xticks=[], yticks=[], xlabel="")


def _scale(axes: Axes, values: list[float]) -> None:
    """A logarithmic axis where the values span more than a linear one can show."""
    if values and min(values) > 0 and max(values) > SPREAD_FOR_LOG * min(values):
        logarithmic(axes, "y")
