"""What the GPUs of a run did, read from the samples in its folder.

A recording has one track for each GPU of the job, in the order of its logged names (gpu_0_…, gpu_1_…): arrays of the
least, mean and highest value at each moment. That is a sample, or a minute where there are many samples, so that peaks
stay. Without GPUs a node's processor and memory take their place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lib.errors import Refused
from lib.files import read_lines
from lib.gpu import balance, store
from lib.gpu.readings import HOST_FIELDS, Gpu
from lib.gpu.store import Header
from lib.gpu.tally import Key
from lib.gpu.windows import Terms, Windows
from lib.journal.folder import RunFolder
from lib.report import totals

Array = npt.NDArray[np.float64]

MOST_SAMPLES = 20_000  # of a run; with more, minutes are read in their place
PAUSE_S, PAUSE_INTERVALS = 150.0, 10  # without a sample, the longer of the two: between two attempts, and left out


@dataclass(frozen=True)
class Card:
    """A GPU of the job, or the host that stands in for one."""

    index: int  # as in the logged names
    host: str
    gpu: Gpu


@dataclass(frozen=True)
class Track:
    """What one GPU did. `values` has for each field an array (T, 3): least, mean and highest; nan is unknown."""

    card: Card
    seconds: Array  # (T,) since monitoring began, without pauses
    weights: Array  # (T,) samples in each moment
    lost: npt.NDArray[np.bool_]  # (T,) it could not be reached
    values: Mapping[str, Array]
    joules: float | None

    def mean(self, name: str) -> float | None:
        """Over the time in which it is known."""
        known = self.values[name][:, 1]
        there = ~np.isnan(known)
        return float(np.average(known[there], weights=self.weights[there])) if there.any() else None

    def least(self, name: str) -> float | None:
        return _finite(np.fmin.reduce(self.values[name][:, 0], initial=np.nan))

    def highest(self, name: str) -> float | None:
        return _finite(np.fmax.reduce(self.values[name][:, 2], initial=np.nan))

    def lost_spans(self) -> list[tuple[float, float]]:
        """From when to when it could not be reached."""
        last = len(self.seconds) - 1
        return [
            (float(self.seconds[begin]), float(self.seconds[min(end, last)])) for begin, end in stretches(self.lost)
        ]


@dataclass(frozen=True)
class Recording:
    """All that was sampled and logged of a run's GPUs; `windows` as in lib/gpu/store.py, with `seconds` besides."""

    run: RunFolder
    header: Header
    tracks: list[Track]
    windows: list[dict[str, Any]]
    events: list[dict[str, Any]]
    resumed: list[float] = field(default_factory=list)  # seconds at which another attempt began

    @property
    def of_host(self) -> bool:
        """Whether there were no GPUs, and the host was sampled."""
        return self.header.kind == "host"

    @property
    def hosts(self) -> list[str]:
        return list(dict.fromkeys(track.card.host for track in self.tracks))

    @property
    def samples(self) -> int:
        return int(self.tracks[0].weights.sum())

    @property
    def seconds(self) -> float:
        """How long it was monitored."""
        return max(float(track.seconds[-1]) for track in self.tracks) + self.header.interval_s

    @property
    def values(self) -> list[dict[str, Any]]:
        """What was logged of each window."""
        return [window["values"] for window in self.windows]

    def logged(self, name: str) -> Array:
        """(windows,) the values of that name; nan where it is null or a word."""
        found = [values.get(name) for values in self.values]
        return np.array([value if isinstance(value, int | float) else np.nan for value in found], dtype=float)

    def average(self, name: str) -> float | None:
        """The mean of a logged value over the time in which it is known."""
        return totals.mean(self.values, name)

    def highest(self, name: str) -> float | None:
        return max(totals.known(self.values, name), default=None)

    def last(self, name: str) -> Any:  # a number or a word, as it was logged
        """The latest value of that name that is not null."""
        found = (values.get(name) for values in reversed(self.values))
        return next((value for value in found if value is not None), None)

    def qualities(self) -> dict[str, float]:
        """Share of the time in each quality of the load's balance, the longest first."""
        shares: dict[str, float] = {}
        for values in self.values:
            if state := values.get("gpu_load_balance_quality"):
                shares[state] = shares.get(state, 0.0) + values[totals.SECONDS]
        total = sum(shares.values())
        return {state: of / total for state, of in sorted(shares.items(), key=lambda item: -item[1]) if total}


@dataclass
class _Node:
    """One sampler's samples as they are read."""

    header: Header | None = None
    times: list[float] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    attempts: list[float] = field(default_factory=list)  # the header's time, for each moment
    rows: list[Sequence[Any]] = field(default_factory=list)  # (T, GPUs, fields); of minutes (T, GPUs, fields, 3)
    uuids: list[list[str]] = field(default_factory=list)


def monitored(runs: Path, project: str = "*") -> list[RunFolder]:
    """The runs that have samples, those sampled last first."""
    found = {path.parents[2]: path.stat().st_mtime for path in runs.glob(f"{project}/*/{store.FOLDER}/rank-*/*.jsonl")}
    return [RunFolder(path) for path in sorted(found, key=lambda path: -found[path])]


def newest(runs: Path) -> RunFolder:
    """The run that was sampled last. Raises Refused when none was."""
    found = monitored(runs)
    if not found:
        raise Refused(f"no run below {runs} has GPU samples. Train one with GPU_MONITOR=y, or name one with RUN=")
    return found[0]


def recorded(run: RunFolder) -> Recording:
    """Read it from the run's folder. Raises Refused when the run was not monitored."""
    nodes = {store.rank_of(sampler): _read(sampler) for sampler in store.samplers(run.path)}
    nodes = {rank: node for rank, node in nodes.items() if node.header is not None}
    headers = {rank: node.header for rank, node in nodes.items() if node.header is not None}
    if not headers:
        raise Refused(f"RUN={run.name}: it has no GPU samples. Train one with GPU_MONITOR=y")
    clock = _Clock([time for node in nodes.values() for time in node.times], headers[min(headers)].interval_s)
    tracks = []
    for index, (rank, position) in enumerate(job(run, headers)):
        card = Card(index, headers[rank].host, headers[rank].gpus[position])
        tracks.append(_track(card, position, nodes[rank], clock))
    windows = [{**entry, "seconds": clock(entry["time"])} for entry in store.windows(run.path)]
    events = [
        {**entry, "seconds": clock(entry["time"])}
        for sampler in store.samplers(run.path)
        for entry in read_lines(sampler / store.EVENTS)
    ]
    events.sort(key=lambda event: float(event["time"]))
    return Recording(run, headers[min(headers)], tracks, windows, events, clock.resumed)


def job(run: RunFolder, headers: Mapping[int, Header]) -> list[Key]:
    """Which GPU is which of the logged ones, by node and position; without GPUs the nodes."""
    marks = _firsts(run.path / store.FOLDER / store.MARKS)
    processes = [int(machine["processes"]) for machine in run.machines[-1:]]
    windows = Windows(Terms(world=max([1, len(marks), *processes])), 0.0)  # whose order is that of the logged names
    for rank, header in headers.items():
        windows.describe(rank, header)
    for rank, mark in marks.items():
        windows.mark(rank, mark)
    return windows.job or [(rank, 0) for rank in sorted(headers)]


def _firsts(marks: Path) -> dict[int, dict[str, Any]]:
    """What each process has said of itself, by rank."""
    found = {}
    for path in marks.glob("rank-*.jsonl"):
        with path.open("rb") as file:
            for entry in store.entries([file.readline()]):
                found[store.rank_of(path)] = entry
    return {rank: entry for rank, entry in found.items() if isinstance(entry, dict) and "uuid" in entry}


def stretches(where: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Begin and end of each stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], where.astype(np.int8), [0]))))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def decimated(seconds: Array, values: Array, most: int) -> tuple[Array, Array]:
    """At most `most` moments of (T,) and (T, 3): the least, mean and highest of neighbours, so that each peak stays."""
    size = -(-len(seconds) // most)
    if size <= 1:
        return seconds, values
    starts = np.arange(0, len(seconds), size)
    counts = np.add.reduceat((~np.isnan(values[:, 1])).astype(float), starts)
    sums = np.add.reduceat(np.nan_to_num(values[:, 1]), starts)
    means = np.divide(sums, counts, out=np.full(len(starts), np.nan), where=counts > 0)
    least, highest = np.fmin.reduceat(values[:, 0], starts), np.fmax.reduceat(values[:, 2], starts)
    return seconds[starts], np.stack([least, means, highest], axis=1)


class _Clock:
    """From the time of day to the seconds since monitoring began, without the pauses between attempts."""

    def __init__(self, times: Sequence[float], interval_s: float) -> None:
        self._times = np.unique(np.array(times, dtype=float))
        steps = np.diff(self._times, prepend=self._times[:1])
        paused = steps > max(PAUSE_S, PAUSE_INTERVALS * interval_s)
        self._seconds = np.cumsum(np.where(paused, interval_s, steps))
        self.resumed = [float(second) for second in self._seconds[paused]]

    def __call__(self, time: float) -> float:
        return float(np.interp(time, self._times, self._seconds))

    def of(self, times: Sequence[float]) -> Array:
        seconds: Array = np.interp(np.array(times, dtype=float), self._times, self._seconds)
        return seconds


def _read(sampler: Path) -> _Node:
    """Its samples, or its minutes when there are many; of its latest kind of source."""
    minutes = list(store.minutes(sampler))
    many = sum(count for _, _, count, _ in minutes) > MOST_SAMPLES
    node = _Node()
    for header, time, count, gpus in minutes if many else _singly(sampler):
        if node.header is None or header.fields != node.header.fields:
            node = _Node()  # a machine without GPUs before: its values have other names
        node.header = header
        node.times.append(time)
        node.weights.append(count)
        node.attempts.append(header.time)
        node.rows.append([None if gpu is None or not any(value is not None for value in gpu) else gpu for gpu in gpus])
        node.uuids.append([gpu.uuid for gpu in header.gpus])
    return node


def _singly(sampler: Path) -> Iterator[tuple[Header, float, int, Sequence[Any]]]:
    for header, row in store.samples(sampler):
        yield header, row.time, 1, row.gpus


def _track(card: Card, position: int, node: _Node, clock: _Clock) -> Track:
    assert node.header is not None
    names = [{"cpu_utilization": "utilization"}.get(name, name) for name in node.header.fields]
    own = []
    for uuids, gpus in zip(node.uuids, node.rows, strict=True):  # where an attempt ran elsewhere, positions count
        place = uuids.index(card.gpu.uuid) if card.gpu.uuid in uuids else position
        own.append(gpus[place] if place < len(gpus) else None)
    table = np.full((len(own), len(names), 3), np.nan)  # (T, fields, 3)
    for moment, gpu in enumerate(own):
        for number, value in enumerate(gpu or ()):
            if value is not None:
                table[moment, number] = value
    values = {name: table[:, number] for number, name in enumerate(names)}
    lost = np.array([gpu is None for gpu in own], dtype=bool)
    weights = np.array(node.weights, dtype=float)
    return Track(card, clock.of(node.times), weights, lost, values, _joules(node, values))


def _joules(node: _Node, values: Mapping[str, Array]) -> float | None:
    """What it has used in all attempts; what others used in between is not this run's."""
    if node.header is None or node.header.fields == HOST_FIELDS:
        return None
    attempts: dict[float, balance.Energy] = {}
    joules: list[float] = []
    for time, weight, attempt, power, counter in zip(
        node.times, node.weights, node.attempts, values["power"][:, 1], values["energy"][:, 2], strict=True
    ):
        if attempt not in attempts:
            attempts[attempt] = balance.Energy()
            joules += [float(power) * (weight - 1) * node.header.interval_s]  # of the first minute, before its end
        watts, count = _finite(power), _finite(counter)
        attempts[attempt].add(time, watts, count)
    spent = [*joules, *(energy.joules for energy in attempts.values())]
    known = np.isfinite(values["power"][:, 1]).any() or np.isfinite(values["energy"][:, 2]).any()
    return float(np.nansum(spent)) if known else None


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
