"""The journal: one line per log call, appended with one write, read by anyone from an offset of his own.

A line is a JSON object that ends in a newline:

    {"seq":17,"time":1763720000.25,"step":40,"values":{"train_loss":0.52}}          what was logged
    {"seq":18,"time":1763720009.75,"rewind":30}         training went back to step 30: the later steps are void

JSON has no inf and nan: such a value is null in `values` and named in `"nonfinite":{"train_loss":"nan"}`.
A line that is torn (a crash, a full disk) or foreign is skipped and counted, wherever it stands.
"""

from __future__ import annotations

import collections
import errno
import functools
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from lib.files import ends_whole
from lib.metrics import normalize

NAME = "journal.jsonl"
WAITING_LINES = 100_000  # kept in memory while the disk is full, about 20 MB
TAIL = 1 << 16  # bytes; longer than any line that is written
MENDABLE = {errno.ENOSPC, errno.EDQUOT, errno.EIO}

Value = float | int | bool | str | None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a journal: `values` at `step`, or a rewind to the step `rewind`."""

    seq: int
    time: float
    step: int
    values: dict[str, Value]
    rewind: int | None = None


class Journal:
    """The writing end. A line that `append` returned from survives the death of this process."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._torn = not ends_whole(self._fd)
        self._seq = itertools.count(last_seq(path) + 1)
        self._waiting: collections.deque[bytes] = collections.deque(maxlen=WAITING_LINES)
        self._warned = False

    def append(self, values: Mapping[str, Any], step: int) -> None:
        """Write one line: `values` at `step`, normalized. With the disk full it waits in memory for the next call."""
        self._write(f'{{"seq":{next(self._seq)},"time":{time.time()!r},"step":{step},{_encoded(values)}}}\n')

    def rewind(self, step: int) -> None:
        """Say that training went back to `step`: what was logged at later steps is void."""
        self._write(f'{{"seq":{next(self._seq)},"time":{time.time()!r},"rewind":{step}}}\n')

    def flush(self) -> int:
        """Try again what waits in memory; the number of lines that still wait."""
        while self._waiting:
            if not self._put(self._waiting[0]):
                break
            self._waiting.popleft()
        return len(self._waiting)

    def close(self) -> None:
        if lost := self.flush():
            print(f"warning: the disk is still full: {lost} lines of the journal are lost", file=sys.stderr)
        os.close(self._fd)

    def _write(self, text: str) -> None:
        data = text.encode()
        if (self._waiting and self.flush()) or not self._put(data):
            self._waiting.append(data)

    def _put(self, data: bytes) -> bool:
        whole = b"\n" + data if self._torn else data
        try:
            written = os.write(self._fd, whole)
        except OSError as problem:
            if problem.errno not in MENDABLE:
                raise
            self._warn(problem)
            return False
        lacks = len(whole) - written
        self._torn = lacks > 0
        return lacks <= 1  # without its newline a line counts: the next write begins with one

    def _warn(self, problem: OSError) -> None:
        if not self._warned:
            self._warned = True
            print(f"warning: the journal can't be written ({problem.strerror}); points wait in memory", file=sys.stderr)


class Reader:
    """The reading end: whole lines from `offset` [bytes] on; a line still being written is left for the next call."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._path = path
        self.offset = offset
        self.skipped = 0

    def read(self, most: int = 4 << 20) -> list[Line]:
        """The lines that have been added since the last call, from at most about `most` bytes."""
        try:
            with self._path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(most)
                if len(data) == most and b"\n" not in data:
                    data += file.readline()
        except FileNotFoundError:
            return []
        data = data[: data.rfind(b"\n") + 1]
        self.offset += len(data)
        lines = [parse(raw) for raw in data.split(b"\n") if raw.strip()]
        found = [line for line in lines if line is not None]
        self.skipped += len(lines) - len(found)
        return found

    def rest(self) -> list[Line]:
        """All whole lines that are there now."""
        found: list[Line] = []
        before = -1
        while before != self.offset:
            before = self.offset
            found += self.read()
        return found


def parse(raw: bytes) -> Line | None:
    """The line that `raw` holds, or None when it is torn or foreign."""
    try:
        entry = json.loads(raw)
        rewind = entry.get("rewind")
        if rewind is not None:
            return Line(int(entry["seq"]), float(entry["time"]), int(rewind), {}, int(rewind))
        values = dict(entry["values"])
        values.update({name: float(text) for name, text in entry.get("nonfinite", {}).items()})
        return Line(int(entry["seq"]), float(entry["time"]), int(entry["step"]), values)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def effective(lines: Iterable[Line]) -> list[Line]:
    """What counts: every line with values, less those that a later rewind made void."""
    kept: list[Line] = []
    for line in lines:
        if line.rewind is None:
            kept.append(line)
        else:
            kept = [earlier for earlier in kept if earlier.step <= line.step]
    return kept


def read(folder: Path) -> list[Line]:
    """The points of the run in `folder` that count, in the order in which they were logged."""
    return effective(Reader(folder / NAME).rest())


def whole_size(path: Path) -> int:
    """Bytes of the journal at `path` up to the end of its last whole line."""
    reader = Reader(path, max(0, path.stat().st_size - TAIL))
    reader.read()
    return reader.offset


def last_seq(path: Path) -> int:
    """The highest sequence number in the journal at `path`, -1 when it has no line."""
    return max((line.seq for line in Reader(path).rest()), default=-1)


@functools.lru_cache(maxsize=4096)
def _key(name: str) -> str:
    return json.dumps(str(name)) + ":"


def _encoded(values: Mapping[str, Any]) -> str:
    """`"values":{…}`, and `"nonfinite":{…}` where JSON has no number. Finite floats take the short way."""
    for value in values.values():
        if type(value) is not float or not isfinite(value):
            break
    else:
        return '"values":{' + ",".join([f"{_key(name)}{value!r}" for name, value in values.items()]) + "}"
    plain = normalize(values)
    odd = {name: str(value) for name, value in plain.items() if type(value) is float and not isfinite(value)}
    text = f'"values":{json.dumps({**plain, **dict.fromkeys(odd)})}'
    return f'{text},"nonfinite":{json.dumps(odd)}' if odd else text
