"""The whole job, as the sampler of its first node sees it: marks and other nodes' samples come in, windows go out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib.files import append_line, read_lines
from lib.gpu import store
from lib.gpu.alarms import Spin
from lib.gpu.store import Header, Row, Tail
from lib.gpu.windows import FIRST, Closed, Terms, Windows

Tell = Callable[..., None]  # keyword arguments are an event


class Job:
    """Writes the windows of the run whose samples are in `folder`, which begin at `now`."""

    def __init__(self, folder: Path, terms: Terms, now: float, tell: Tell) -> None:
        before = read_lines(folder / store.WINDOWS)[-1:]  # of an attempt before this one: what was spent stays spent
        self._windows = Windows(terms, now, dict(before[0]["totals"]) if before else {})
        self._folder = folder
        self._began = now
        self._tell = tell
        self._tails: dict[Path, Tail] = {}
        self._spin = Spin()
        self._suspect = False

    def describe(self, header: Header) -> None:
        """What `add` is given from now on is of these GPUs, of the first node."""
        self._windows.describe(FIRST, header)

    def add(self, row: Row) -> None:
        """A sample of the first node; with it comes what the other nodes and all processes have written since."""
        self._windows.add(FIRST, row)
        self.look(row.time)
        if why := self._spin.look(row.time, self._windows.seen(FIRST, row)):
            self._tell(event="alarm", why=why)

    def look(self, now: float) -> None:
        """Take what was written, and write the window that it completes."""
        self._take_samples()
        for rank, entry in self._marks():
            self._windows.mark(rank, entry)
            if rank == 0 and "step" in entry:
                self._spin.mark(entry["time"], entry["step"])
        if closed := self._windows.finished(now):
            self._write(closed)

    def end(self, now: float) -> None:
        """Training has ended: what is left is a window, too."""
        while closed := self._windows.last(now):
            self._write(closed)

    def complete(self) -> bool:
        """Whether the marks of all processes are in."""
        return self._windows.complete()

    def _take_samples(self) -> None:
        for path in self._folder.glob(f"rank-*/{store.SAMPLES}"):
            node = store.rank_of(path.parent)
            if node == FIRST:
                continue
            for entry in self._tail(path).read():
                if isinstance(entry, dict):
                    self._windows.describe(node, Header.of(entry))
                elif entry[0] >= self._began:
                    self._windows.add(node, Row(*entry))

    def _marks(self) -> list[tuple[int, dict[str, Any]]]:
        """What came since: process and line, in the order of time; what is older than this sampler is a dead one's."""
        found = [
            (store.rank_of(path), entry)
            for path in (self._folder / store.MARKS).glob("rank-*.jsonl")
            for entry in self._tail(path).read()
            if "uuid" in entry or entry["time"] >= self._began
        ]
        return sorted(found, key=lambda of: float(of[1]["time"]))

    def _tail(self, path: Path) -> Tail:
        return self._tails.setdefault(path, Tail(path))

    def _write(self, closed: Closed) -> None:
        with contextlib.suppress(OSError):  # a full disk: the next window begins where this one ended
            append_line(self._folder / store.WINDOWS, closed.entry())
        suspect = bool(closed.values.get("gpu_load_balance_suspect"))
        if suspect and not self._suspect:
            self._tell(event="alarm", why=f"step {closed.step}: {closed.suspicion()}")
        self._suspect = suspect
