"""The journal: one line per log call, appended with one write, read by anyone from an offset of his own.

A line is a JSON object that ends in a newline:

    {"seq":17,"time":1763720000.25,"step":40,"values":{"train_loss":0.52}}          what was logged
    {"seq":18,"time":1763720009.75,"rewind":30}         training went back to step 30: the later steps are void

A line that is not for every tracker names those it is for, `"to":["wandb"]`; `"options":{"wandb":{…}}` goes to that
tracker's own log call. A line with `"media":{"kind":"image","name":"samples","file":"media/17.png"}` has a file of the
run folder, or a text, in place of values.

JSON has no inf and nan: such a value is null in `values` and named in `"nonfinite":{"train_loss":"nan"}`. A text that
is a secret is `"***"`. A line whose values are still on an accelerator is written when they have arrived, and later
lines do not wait for it: the order of the calls is that of `seq`. A line that is torn (a crash, a full disk) or foreign
is skipped and counted, wherever it stands.
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

from lib.files import ends_whole
from lib.journal import secrets
from lib.metrics import Scalar, flat, scalar

NAME = "journal.jsonl"
WAITING_LINES = 100_000  # kept in memory while the disk is full, about 20 MB
TAIL = 1 << 16  # bytes; longer than any line that is written
MENDABLE = {errno.ENOSPC, errno.EDQUOT, errno.EIO}

Value = Scalar


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a journal: `values` at `step`, or `media`, or a rewind to the step `rewind`."""

    seq: int
    time: float
    step: int
    values: dict[str, Value]
    rewind: int | None = None
    to: tuple[str, ...] = ()  # the trackers that it is for; none named: all
    options: dict[str, dict[str, Any]] = field(default_factory=dict)  # of each tracker's own log call
    media: dict[str, Any] | None = None


class Copy(Protocol):
    """Values of an accelerator on their way to this process."""

    def ready(self) -> bool:
        """Whether they have arrived."""

    def values(self) -> Sequence[Any]:
        """All of them, in their order; waits until they have arrived. RuntimeError: they never will."""


@dataclass(frozen=True, slots=True)
class Late:
    """A line that waits for values of an accelerator, which have these `names`; the host has the other `values`."""

    head: str
    values: dict[str, Value]
    names: list[str]
    copy: Copy
    rest: str


class Journal:
    """The writing end. A line that `append` returned from survives the death of this process.

    `fetch` starts to copy one-element tensors from an accelerator, without waiting for it. A line with such values is
    written at the first call that finds them arrived, at the latest by `flush`, `rewind` or `close`.
    """

    def __init__(self, path: Path, fetch: Callable[[list[Any]], Copy] | None = None) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._torn = not ends_whole(self._fd)
        known = Reader(path).rest()
        self._seq = itertools.count(max((line.seq for line in known), default=-1) + 1)
        self.highest = max((line.step for line in effective(known)), default=-1)  # step that was there at the start
        self._waiting: collections.deque[bytes] = collections.deque(maxlen=WAITING_LINES)
        self._fetch = fetch
        self._late: collections.deque[Late] = collections.deque()
        self._warned: set[str] = set()

    def append(self, values: Mapping[str, Any], step: int, **extra: Any) -> None:
        """Write one line: `values` at `step`, normalized. With the disk full it waits in memory for the next call.

        `extra` is what else the line holds: `to`, `options`, `media`; left out where empty, a text where JSON has none.
        """
        numbers = values.values()
        for number in numbers:
            kind = type(number)
            if (kind is not float and kind is not int) or number - number != 0:  # also what is inf or nan
                return self._append_any(values, step, extra)
        if extra:
            return self._append_any(values, step, extra)
        if self._late:
            self._settle(wait=False)
        # Training waits for this: after a step, when the caches hold other things, each call costs a microsecond.
        return self._write((_template(tuple(values)) % (next(self._seq), time.time(), step, *numbers)).encode())

    def rewind(self, step: int) -> None:
        """Say that training went back to `step`: what was logged at later steps is void."""
        self._settle(wait=True)
        self._write(f'{{"seq":{next(self._seq)},"time":{time.time()!r},"rewind":{step}}}\n'.encode())

    def flush(self) -> int:
        """Wait for what is on an accelerator and try again what waits in memory; the number of lines that still do."""
        self._settle(wait=True)
        return self._retry()

    def close(self) -> None:
        if lost := self.flush():
            print(f"warning: the disk is still full: {lost} lines of the journal are lost", file=sys.stderr)
        os.close(self._fd)

    def _append_any(self, values: Mapping[str, Any], step: int, extra: Mapping[str, Any]) -> None:
        """`append` for values of every kind."""
        head = f'{{"seq":{next(self._seq)},"time":{time.time()!r},"step":{step},'
        rest = "".join([f',"{name}":{_plain(told)}' for name, told in extra.items() if told])
        leaves = flat(values)
        names = [name for name, value in leaves.items() if self._fetch and on_accelerator(value)]
        copy = self._fetch([leaves[name] for name in names]) if self._fetch and names else None
        plain = {name: scalar(value) for name, value in leaves.items() if name not in names}
        self._settle(wait=False)
        if copy:
            self._late.append(Late(head, plain, names, copy, rest))
        else:
            self._write(f"{head}{_encoded(plain)}{rest}}}\n".encode())

    def _settle(self, *, wait: bool) -> None:
        """Write the lines whose values have arrived; with `wait` all of them."""
        while self._late:
            late = self._late[0]
            arrived: dict[str, Value] = {}
            try:
                if not wait and not late.copy.ready():
                    return
                arrived.update(zip(late.names, map(scalar, late.copy.values()), strict=True))
            except RuntimeError as problem:  # the accelerator has failed: what the host knew is kept
                self._warn(f"values on the accelerator are lost: {str(problem).splitlines()[0]}")
            self._late.popleft()
            self._write(f"{late.head}{_encoded({**late.values, **arrived})}{late.rest}}}\n".encode())

    def _retry(self) -> int:
        while self._waiting:
            if not self._put(self._waiting[0]):
                break
            self._waiting.popleft()
        return len(self._waiting)

    def _write(self, data: bytes) -> None:
        if (self._waiting and self._retry()) or not self._put(data):
            self._waiting.append(data)

    def _put(self, data: bytes) -> bool:
        whole = b"\n" + data if self._torn else data
        try:
            written = os.write(self._fd, whole)
        except OSError as problem:
            if problem.errno not in MENDABLE:
                raise
            self._warn(f"the journal can't be written ({problem.strerror}); points wait in memory")
            return False
        lacks = len(whole) - written
        self._torn = lacks > 0
        return lacks <= 1  # without its newline a line counts: the next write begins with one

    def _warn(self, what: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            print(f"warning: {what}", file=sys.stderr)


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
        media = entry.get("media")
        return Line(
            seq=int(entry["seq"]), time=float(entry["time"]), step=int(entry["step"]), values=values,
            to=tuple(entry.get("to", ())), options=dict(entry.get("options", {})), media=media and dict(media),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def effective(lines: Iterable[Line]) -> list[Line]:
    """What counts, in the order of the calls: every line with values, less those that a later rewind made void."""
    kept: list[Line] = []
    for line in sorted(lines, key=lambda line: line.seq):
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


@functools.lru_cache(maxsize=1024)
def _template(names: tuple[str, ...]) -> str:
    """A line of finite numbers of these names, as a format for seq, time, step and the numbers."""
    keys = [json.dumps(secrets.scrubbed(str(name))).replace("%", "%%") for name in names]
    return '{"seq":%d,"time":%.6f,"step":%d,"values":{' + ",".join([f"{key}:%r" for key in keys]) + "}}\n"


def _encoded(values: Mapping[str, Value]) -> str:
    """`"values":{…}`, and `"nonfinite":{…}` where JSON has no number."""
    plain = secrets.without(values)
    odd = {name: str(value) for name, value in plain.items() if type(value) is float and not isfinite(value)}
    text = f'"values":{json.dumps({**plain, **dict.fromkeys(odd)})}'
    return f'{text},"nonfinite":{json.dumps(odd)}' if odd else text


def _plain(told: Any) -> str:
    """`told`, which users may have put anything into, as JSON without secrets."""
    return json.dumps(secrets.without(json.loads(json.dumps(told, default=str))))


def on_accelerator(value: Any) -> bool:
    """Whether `value` is a tensor of one element on a CUDA (or ROCm) device; of any other `.item()` is taken."""
    return getattr(getattr(value, "device", None), "type", None) == "cuda" and value.numel() == 1
