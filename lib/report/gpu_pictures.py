"""Pictures of what the GPUs of a run did: memory, load balance, timelines; PNGs that can be read at a glance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lib import plot
from lib.gpu import balance
from lib.plot import INK, PALE, SIZE_INCHES, TRAIN, VAL
from lib.report.gpu_recording import Array, Recording, Track, decimated
from lib.report.gpu_summary import GIB, hardware, name_of

Colour = str | tuple[float, float, float, float]

MOST = 600  # moments in one curve: about two pixels each
BANDS = (  # quality, up to which CV, background, letters
    ("Excellent", balance.EXCELLENT, "#dff3e4", "#1e7b3c"),
    ("Good", balance.GOOD, "#eef7d9", "#5f7f12"),
    ("Fair", balance.FAIR, "#fdf1d5", "#9a6700"),
    ("Poor", math.inf, "#fbe3df", "#b42318"),
)
LOST = "#b42318"
CVS = (  # suffix of the logged name, label, colour
    ("", "utilization", VAL),
    ("_memory", "memory", "#7b61c9"),
    ("_power", "power", "#c05621"),
    ("_compute_time", "work of the processes", "#0f7b6c"),
)
QUANTITIES = (  # field, title, factor
    ("utilization", "Utilization [%]", 1.0),
    ("memory_used", "Memory [GiB]", 1 / GIB),
    ("power", "Power [W]", 1.0),
    ("temperature", "Temperature [°C]", 1.0),
)
COMPARED = (  # logged name, title, factor
    ("gpu_average_utilization", "Average utilization [%]", 1.0),
    ("gpu_total_memory_used", "Total memory [GiB]", 1 / GIB),
    ("gpu_total_power", "Total power [W]", 1.0),
    ("gpu_load_balance_cv", "Load balance: CV of utilization [%]", 1.0),
)
COMPARED_HOSTS = (
    ("host_cpu_utilization", "Processor [%]", 1.0),
    ("host_memory_used", "Memory [GiB]", 1 / GIB),
)


def grid(count: int) -> tuple[int, int]:
    """Rows and columns for so many panels: 2 × 2 for four, 2 × 4 for eight; no place is empty where that can be."""
    columns = math.ceil(math.sqrt(count))
    wider = [width for width in (columns, columns + 1) if count % width == 0]
    columns = wider[0] if wider else columns
    return math.ceil(count / columns), columns


def memory(recording: Recording) -> Figure:
    """The memory of each GPU over time, a panel each, with its capacity and its peak."""
    rows, columns = grid(len(recording.tracks))
    figure = _figure(
        _title("Memory" if recording.of_host else "Memory of each GPU", recording), hardware(recording), rows
    )
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    scale, unit = _unit(recording.seconds)
    totals = [track.card.gpu.memory_total_mib or track.highest("memory_used") or 0.0 for track in recording.tracks]
    for axes, track in zip(panels.flat, recording.tracks, strict=False):
        _memory(axes, track, scale, small=columns > 2)
        axes.set_title(name_of(track.card, recording), loc="left", fontsize=11, color=INK)
        axes.set_ylim(0, 1.12 * max(totals) / GIB or 1)
        axes.set_xlim(0, recording.seconds / scale)
        _resumed(axes, recording, scale)
    for axes in panels.flat[len(recording.tracks) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("GiB", color=PALE)
    for axes in panels[-1]:
        axes.set_xlabel(unit, color=PALE)
    return figure


def load_balance(recording: Recording) -> Figure:
    """How even the load was over time, above its classes; below, what each GPU did on average."""
    figure = _figure(_title("Load" if recording.of_host else "Load balance", recording), hardware(recording))
    scale, unit = _unit(recording.seconds)
    work = _work(recording)
    panels = [quantity for quantity in QUANTITIES[:3] if quantity[0] in recording.tracks[0].values]
    places = figure.add_gridspec(2, len(panels) + bool(work), height_ratios=(1.25, 1))
    above = figure.add_subplot(places[0, :])
    _variation(above, recording, scale)
    above.set_xlabel(unit, color=PALE)
    _legend(figure, above, columns=len(CVS) + 1)
    for place, (name, title, factor) in enumerate(panels):
        axes = figure.add_subplot(places[1, place])
        _panel(axes, title, above=18)
        _bars(axes, [(track.mean(name), track.values[name][:, 1]) for track in recording.tracks], factor)
        axes.set_xlabel("host" if recording.of_host else "GPU", color=PALE)
    if work:
        axes = figure.add_subplot(places[1, len(panels)])
        _panel(axes, "Work in each step [ms]", above=18)
        _bars(axes, [(mean, recording.logged(f"gpu_{rank}_compute_time")) for rank, mean in enumerate(work)], 1000.0)
        axes.set_xlabel("rank", color=PALE)
    return figure


def timeline(recording: Recording) -> Figure:
    """Utilization, memory, power and temperature over time, a line for each GPU."""
    figure = _figure(_title("Timeline", recording), hardware(recording))
    shown = [quantity for quantity in QUANTITIES if quantity[0] in recording.tracks[0].values]
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    scale, unit = _unit(recording.seconds)
    colours = _colours(len(recording.tracks))
    for axes, (name, title, factor) in zip(panels, shown, strict=True):
        _panel(axes, title)
        for track, colour in zip(recording.tracks, colours, strict=True):
            seconds, values = decimated(track.seconds, track.values[name] * factor, MOST)
            label = name_of(track.card, recording)
            _envelope(axes, seconds / scale, values, colour, label=label, pale=0.12 if len(colours) > 1 else 0.25)
        axes.set_ylim(bottom=0, top=105 if name == "utilization" else None)
        axes.set_xlim(0, recording.seconds / scale)
        _resumed(axes, recording, scale)
        for begin, end in (span for track in recording.tracks for span in track.lost_spans()):
            axes.axvspan(begin / scale, end / scale, color=LOST, alpha=0.12, linewidth=0)
    panels[-1].set_xlabel(unit, color=PALE)
    if len(colours) > 1:
        _legend(figure, panels[0], columns=8)
    return figure


def comparison(recordings: Sequence[Recording]) -> Figure:
    """Several runs in the same axes: what was logged of all their GPUs together, from the beginning of each."""
    machines = {hardware(recording) for recording in recordings}
    figure = _figure(f"{len(recordings)} runs compared", machines.pop() if len(machines) == 1 else "")
    shown = COMPARED_HOSTS if all(recording.of_host for recording in recordings) else COMPARED
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    longest = max(recording.seconds for recording in recordings)
    scale, unit = _unit(longest)
    for axes, (name, title, factor) in zip(panels, shown, strict=True):
        _panel(axes, title)
        for recording, colour in zip(recordings, _colours(len(recordings)), strict=True):
            seconds, values = decimated(*_window_means(recording, name, factor), MOST)
            _envelope(axes, seconds / scale, values, colour, label=recording.run.name, pale=0.12)
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, longest / scale)
        if name == "gpu_load_balance_cv":
            _classes(axes, max(recording.highest(name) or 0.0 for recording in recordings))
    panels[-1].set_xlabel(unit, color=PALE)
    _legend(figure, panels[0], columns=min(4, len(recordings)))
    return figure


def _memory(axes: Axes, track: Track, scale: float, *, small: bool) -> None:
    _panel(axes, "")
    seconds, values = decimated(track.seconds, track.values["memory_used"] / GIB, MOST)
    axes.fill_between(seconds / scale, 0, values[:, 1], color=VAL, alpha=0.15, linewidth=0)
    _envelope(axes, seconds / scale, values, VAL, pale=0.35)
    total, peak = track.card.gpu.memory_total_mib, track.highest("memory_used")
    if total:
        axes.axhline(total / GIB, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    if peak is not None:
        at = int(np.nanargmax(track.values["memory_used"][:, 2]))
        axes.plot(track.seconds[at] / scale, peak / GIB, "o", color=VAL, markersize=4, clip_on=False)
        of = f" of {total / GIB:.1f}" if total and not small else ""
        share = f" ({100 * peak / total:.0f} %)" if total else ""
        axes.set_title(f"peak {peak / GIB:.1f}{of} GiB{share}", loc="right", fontsize=9, color=VAL)
    for begin, end in track.lost_spans():
        axes.axvspan(begin / scale, end / scale, color=LOST, alpha=0.15, linewidth=0)


def _variation(axes: Axes, recording: Recording, scale: float) -> None:
    """The coefficients of variation over time, and marks where they are not to be believed."""
    between = "processes" if recording.of_host else "GPUs"
    _panel(axes, f"Coefficient of variation between the {between}, each window [%]")
    drawn = []
    for suffix, label, colour in CVS:
        seconds, values = decimated(*_window_means(recording, f"gpu_load_balance_cv{suffix}", 1.0), MOST)
        if not np.isnan(values[:, 1]).all():
            width = 2.2 if not suffix else 1.2
            _envelope(axes, seconds / scale, values, colour, label=label, pale=0.15, width=width)
            drawn.append(np.nanmax(values[:, 2]))
    _classes(axes, max(drawn, default=0.0))
    axes.set_xlim(0, recording.seconds / scale)
    _resumed(axes, recording, scale)
    suspect = recording.logged("gpu_load_balance_suspect") > 0
    if suspect.any():
        when = np.array([window["seconds"] for window in recording.windows], dtype=float)[suspect] / scale
        axes.plot(
            when,
            np.full(len(when), 0.93 * axes.get_ylim()[1]),
            "v",
            color=LOST,
            markersize=5,
            linestyle="",
            label="suspect",
        )
    if not drawn:
        why = {
            "Single": "one GPU: nothing to balance",
            "Idle": "the GPUs were idle",
            "Unknown": "GPUs without readings",
        }
        none = "one process: nothing to balance" if recording.windows else "no window is over yet"
        said = next((why[state] for state in recording.qualities() if state in why), none)
        axes.text(0.5, 0.5, said, transform=axes.transAxes, ha="center", va="center", color=INK)
    times = "   ".join(f"{state} {100 * share:.0f} %" for state, share in recording.qualities().items())
    axes.set_title(f"of the time: {times}" if times else "", loc="right", fontsize=10, color=INK)


def _classes(axes: Axes, most: float) -> None:
    """An axis for coefficients of variation up to `most`, linear in their square roots, so that all bands show."""
    low, top = 0.0, max(40.0, 1.1 * most)
    axes.set_yscale("function", functions=(lambda cv: np.sqrt(np.maximum(cv, 0)), np.square))
    axes.yaxis.set_major_locator(FixedLocator([cv for cv in (0, 1, 5, 10, 20, 50, 100, 200) if cv <= top]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(visible=False)
    for name, limit, colour, letters in BANDS:
        high = min(limit, top)
        middle = ((math.sqrt(low) + math.sqrt(high)) / 2) ** 2
        axes.axhspan(low, high, color=colour, zorder=0, linewidth=0)
        axes.text(1.005, middle, name, transform=axes.get_yaxis_transform(), color=letters, fontsize=9, va="center")
        low = high
    axes.set_ylim(0, top)


def _bars(axes: Axes, known: Sequence[tuple[float | None, Array]], factor: float) -> None:
    """Means, how they vary, and as a thin line where the middle 80 % of the values behind each mean lie."""
    means = [None if mean is None else mean * factor for mean, _ in known]
    axes.bar(range(len(means)), [mean or 0.0 for mean in means], color=TRAIN, width=0.7)
    for place, (mean, values) in enumerate(known):
        if mean is not None:
            axes.plot([place] * 2, factor * np.nanpercentile(values, (10, 90)), color=INK, linewidth=1.2)
    axes.grid(axis="x", visible=False)
    axes.set_xticks(range(len(means)))
    spare = max(0.0, 4 - len(means)) / 2  # one bar alone would be a wall
    axes.set_xlim(-0.6 - spare, len(means) - 0.4 + spare)
    axes.set_ylim(bottom=0)
    cv = balance.cv_percent(means)
    if cv is not None:
        axes.axhline(
            math.fsum(mean or 0.0 for mean in means) / len(means), color=INK, linewidth=1, linestyle=(0, (4, 3))
        )
        colour = next(letters for _, limit, _, letters in BANDS if cv < limit)
        said = f"CV {cv:.1f} %  {balance.quality(cv)}"
        axes.text(0, 1.03, said, transform=axes.transAxes, fontsize=10, color=colour, fontweight="bold")


def _work(recording: Recording) -> list[float | None]:
    """Seconds of its own work in each step, by process; nothing where there is one, or none has said."""
    count = 0
    while any(f"gpu_{count}_compute_time" in values for values in recording.values):
        count += 1
    means = [recording.average(f"gpu_{rank}_compute_time") for rank in range(count)]
    return means if any(mean is not None for mean in means) else []


def _window_means(recording: Recording, name: str, factor: float) -> tuple[Array, Array]:
    """A logged value over time, (windows,) and (windows, 3)."""
    seconds = np.array([window["seconds"] for window in recording.windows] or [0.0], dtype=float)
    values = recording.logged(name) * factor if recording.windows else np.array([np.nan])
    return seconds, np.repeat(values[:, None], 3, axis=1)


def _envelope(
    axes: Axes, x: Array, values: Array, colour: Colour, *, label: str = "", pale: float, width: float = 1.4
) -> None:
    """The mean as a line, and from the least to the highest a pale band, in which each peak is seen."""
    if np.isnan(values[:, 1]).all():
        return
    alone = int((~np.isnan(values[:, 1])).sum()) == 1  # one point makes no line
    if (values[:, 2] > values[:, 0]).any():
        axes.fill_between(x, values[:, 0], values[:, 2], color=colour, alpha=pale, linewidth=0)
        axes.plot(x, values[:, 2], color=colour, linewidth=0.5, alpha=min(1.0, 2 * pale))
    axes.plot(x, values[:, 1], color=colour, linewidth=width, label=label or None, marker="o" if alone else "")


def _title(what: str, recording: Recording) -> str:
    return f"{what}   {recording.run.name}"


def _figure(title: str, machine: str, rows: int = 2) -> Figure:
    height = SIZE_INCHES[1]
    figure = plot.sheet(title, height_inches=height + max(0, rows - 2) * height / 3)
    figure.text(0.985, 0.975, machine, ha="right", va="top", fontsize=10, color=PALE)
    return figure


def _panel(axes: Axes, title: str, *, above: float = 6) -> None:
    plot.panel(axes, title, above=above)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _legend(figure: Figure, axes: Axes, *, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, labelcolor=INK)


def _resumed(axes: Axes, recording: Recording, scale: float) -> None:
    for second in recording.resumed:
        axes.axvline(second / scale, color=PALE, linewidth=1, linestyle=":")


def _colours(count: int) -> list[tuple[float, float, float, float]]:
    return [colormaps["tab10" if count <= 10 else "tab20"](number % 20) for number in range(count)]


def _unit(seconds: float) -> tuple[float, str]:
    """By what seconds are divided on the axis of time, and how it is called then."""
    if seconds <= 180:
        return 1.0, "seconds"
    return (60.0, "minutes") if seconds <= 10_800 else (3600.0, "hours")
