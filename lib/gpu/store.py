"""The samples on disk, `<run>/gpu/`: what is in it, who writes, how it is read. All of it is JSON lines.

    windows.jsonl                 what is logged of each window, and the totals so far; by the sampler of process 0
    marks/rank-N.jsonl            what process N says of itself, of this attempt
    rank-N/                       of the sampler that process N, the first of its node, has started
        samples.jsonl             since the last full hour:  [time, [[value of each field], … each GPU]]
        samples-TIME.jsonl.gz     an hour that is over; of an attempt that was killed, until the next, without .gz
        minutes.jsonl             [time, samples, [[[least, mean, highest] of each field], … each GPU]]
        events.jsonl              what was found, lost, back
        sampler.log               what the sampler prints; empty

Each file of samples begins with a header, an object, and has another where the visible GPUs changed. A GPU that can't
be reached is null, so is a value that it lacks. A line that is torn (a crash, a full disk) is skipped.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lib.files import ends_whole, read_lines
from lib.gpu.readings import Gpu, Values

FOLDER, MARKS = "gpu", "marks"
SAMPLES, MINUTES, EVENTS, WINDOWS = "samples.jsonl", "minutes.jsonl", "events.jsonl", "windows.jsonl"
SCHEMA = 1
HOUR_S, MINUTE_S = 3600.0, 60.0
MOST = 1 << 20  # bytes in one look at a file that grows
COUNTED = ("throttle", "energy")  # fields whose mean means nothing: a minute holds their last value


@dataclass(frozen=True)
class Header:
    """What the samples after it have in common."""

    time: float
    host: str
    kind: str
    about: str
    interval_s: float
    fields: tuple[str, ...]
    gpus: tuple[Gpu, ...]

    def line(self) -> str:
        return json.dumps({"schema": SCHEMA, **asdict(self)})

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Header:
        told = {name: entry[name] for name in cls.__dataclass_fields__}
        return cls(**{**told, "fields": tuple(entry["fields"]), "gpus": tuple(Gpu(**gpu) for gpu in entry["gpus"])})


class Row(NamedTuple):
    """One sample: for each GPU its values in the header's order of fields, or None while it can't be reached."""

    time: float
    gpus: Sequence[Values | None]


class Tail:
    """The entries that are appended to the JSON lines at `path`, also when another file takes its place."""

    def __init__(self, path: Path, *, begin: int = 0) -> None:
        """From byte `begin` of the file that is there now."""
        self._path = path
        self._begin = begin
        self._fd: int | None = None
        self._rest = b""

    def read(self) -> list[Any]:  # objects and lists, as the file has them
        """What came since the last call; the rest of the old file first, where it was replaced."""
        found = self._take()
        if self._replaced():
            self.close()
            self._rest = b""
            try:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return found
            os.lseek(self._fd, self._begin, os.SEEK_SET)
            self._begin = 0
            found += self._take()
        return found

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _replaced(self) -> bool:
        if self._fd is None:
            return True
        try:
            return self._path.stat().st_ino != os.fstat(self._fd).st_ino
        except FileNotFoundError:
            return False

    def _take(self) -> list[Any]:
        found: list[Any] = []
        while self._fd is not None and (data := os.read(self._fd, MOST)):
            *whole, self._rest = (self._rest + data).split(b"\n")
            found += entries(whole)
        return found


def entries(lines: Sequence[bytes]) -> list[Any]:
    """The JSON values of `lines`, without what is torn."""
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


class Minute:
    """Least, mean and highest of a minute's samples."""

    def __init__(self, header: Header, time: float) -> None:
        self.time = time
        self.samples = 0
        self._counted = [field in COUNTED for field in header.fields]
        self._of: list[list[list[float]]] = [[[] for _ in header.fields] for _ in header.gpus]

    def add(self, row: Row) -> None:
        self.samples += 1
        for known, values in zip(self._of, row.gpus, strict=True):
            for entry, counted, value in zip(known, self._counted, values or [], strict=False):
                if value is None:
                    continue
                if counted or not entry:  # least, sum, highest, number
                    entry[:] = [value, value, value, 1]
                else:
                    entry[:] = [min(entry[0], value), entry[1] + value, max(entry[2], value), entry[3] + 1]

    def line(self) -> str:
        rolled = [
            [[entry[0], round(entry[1] / entry[3], 1), entry[2]] if entry else None for entry in gpu]
            for gpu in self._of
        ]
        return json.dumps([self.time, self.samples, rolled], separators=(",", ":"))


class Writer:
    """The writing end of one sampler's samples: by the hour, with a roll-up by the minute."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._header: Header | None = None
        self._fd: int | None = None
        self._hour = 0.0
        self._minute: Minute | None = None
        self._minutes_know = False  # the header
        self.rotate()  # what an attempt before this one has left

    def describe(self, header: Header) -> None:
        """What follows is as `header` says."""
        self._end_minute()
        self._header, self._minutes_know = header, False
        if self._fd is not None:
            self._put(header.line())

    def add(self, row: Row) -> None:
        """Append a sample. Raises OSError when the disk is full; the sample is lost then."""
        assert self._header is not None
        if self._fd is None or row.time // HOUR_S != self._hour:
            self.rotate()
            self._hour = row.time // HOUR_S
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._fd = os.open(self._folder / SAMPLES, flags, 0o644)
            self._put(self._header.line())
        if self._minute is None or row.time // MINUTE_S != self._minute.time // MINUTE_S:
            self._end_minute()
            self._minute = Minute(self._header, row.time // MINUTE_S * MINUTE_S)
        self._minute.add(row)
        self._put(json.dumps(row, separators=(",", ":")))

    def close(self) -> None:
        """The last minute is written; the last hour stays as it is, and the next attempt packs it."""
        self._end_minute()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def rotate(self) -> None:
        """Put the current hour aside, and pack all that is aside; sampling goes on meanwhile."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        current = self._folder / SAMPLES
        if current.exists():
            current.rename(current.with_name(f"samples-{current.stat().st_mtime_ns // 1000}.jsonl"))
        if aside := sorted(self._folder.glob("samples-*.jsonl")):
            threading.Thread(target=pack, args=(aside,), daemon=True).start()

    def _end_minute(self) -> None:
        minute, self._minute = self._minute, None
        if minute is None or self._header is None:
            return
        header = "" if self._minutes_know else f"{self._header.line()}\n"
        with (self._folder / MINUTES).open("a", encoding="utf-8") as file:
            file.write(f"{header}{minute.line()}\n")
        self._minutes_know = True

    def _put(self, text: str) -> None:
        assert self._fd is not None
        torn = b"" if ends_whole(self._fd) else b"\n"
        os.write(self._fd, torn + text.encode() + b"\n")


def pack(paths: Sequence[Path]) -> None:
    """Compress each file; at any moment the old one is there, or the whole new one."""
    for path in paths:
        packed = path.with_name(f"{path.name}.gz")
        fresh = path.with_name(f".{path.name}.tmp")
        with contextlib.suppress(OSError):  # a full disk: the next hour's turn
            with path.open("rb") as source, gzip.open(fresh, "wb", compresslevel=6) as target:
                shutil.copyfileobj(source, target, MOST)
            fresh.replace(packed)
            path.unlink()


def rank_of(path: Path) -> int:
    """N of `rank-N` or `rank-N.jsonl`."""
    return int(path.stem.removeprefix("rank-"))


def samplers(run: Path) -> list[Path]:
    """The folders of the run's samplers, one for each node, the job's first node first."""
    return sorted((run / FOLDER).glob("rank-*"), key=rank_of)


def samples(sampler: Path) -> Iterator[tuple[Header, Row]]:
    """Every sample in the folder of a sampler, from the first attempt on."""
    packed = {path.name.removesuffix(".gz"): path for path in sampler.glob("samples-*.jsonl.gz")}
    aside = {path.name: path for path in sampler.glob("samples-*.jsonl")} | packed  # the packed one is whole
    for path in [*(aside[name] for name in sorted(aside)), sampler / SAMPLES]:
        for header, row in _read(path):
            yield header, Row(*row)


def minutes(sampler: Path) -> Iterator[tuple[Header, float, int, list[list[Sequence[float] | None]]]]:
    """Every minute: its header, time, number of samples, and of each GPU and field least, mean and highest."""
    for header, (time, count, rolled) in _read(sampler / MINUTES):
        yield header, time, count, rolled


def windows(run: Path) -> list[dict[str, Any]]:
    """The windows of the run as they were logged: `time`, `step`, `values`, and the totals so far."""
    return read_lines(run / FOLDER / WINDOWS)


def _read(path: Path) -> Iterator[tuple[Header, list[Any]]]:
    """The lines below each header."""
    header: Header | None = None
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for line in file:
                for entry in entries([line]):
                    if isinstance(entry, dict):
                        header = Header.of(entry)
                    elif header is not None and isinstance(entry, list):
                        yield header, entry
    except (FileNotFoundError, EOFError, zlib.error, gzip.BadGzipFile):
        return  # none there; or packed, and damaged since: up to where it is whole
