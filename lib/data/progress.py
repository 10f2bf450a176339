"""How far the reading of a data set is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Self

from tqdm import tqdm

INTERVAL_S = 10.0  # between two lines
MIB = 1 << 20


class Reading:
    """Progress over `total` units (0: unknown), of which `done` were read before; bytes, or images."""

    def __init__(self, name: str, total: int, *, unit: str, done: int = 0) -> None:
        self._name, self._total, self._unit, self._done = name, total, unit, done
        self._bar = tqdm(total=total or None, initial=done, desc=name, unit=unit, unit_scale=unit == "B", disable=None)
        self._said = time.monotonic()
        if done:
            self._say("are there, reading goes on")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, count: int) -> None:
        self._done += count
        self._bar.update(count)
        if self._bar.disable and time.monotonic() - self._said > INTERVAL_S:
            self._say("read")

    def _say(self, what: str) -> None:
        self._said = time.monotonic()
        of = f" of {self._amount(self._total)}" if self._total else ""
        unit = "MiB" if self._unit == "B" else f"{self._unit}s"
        print(f"{self._name}: {self._amount(self._done)}{of} {unit} {what}", file=sys.stderr, flush=True)

    def _amount(self, count: int) -> str:
        return f"{count / MIB:,.0f}" if self._unit == "B" else f"{count:,}"
