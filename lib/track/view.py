"""The journal as one tracker sees it: the lines that are for it, thinned, under its names, with values it can hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib.journal.lines import Line, Value
from lib.track.client import ABSENT, Client

SECTION = re.compile(r"(train|val|test|gpu)_(?:(\d+)_)?(?=.)")


class View:
    """What of each line of the run in `folder` goes to `client`, which was started with `options`.

    `last` is the step at which each name was sent last: what a worker that goes on must know to thin as before.
    """

    def __init__(
        self,
        name: str,
        client: Client,
        options: Mapping[str, Any],
        folder: Path,
        *,
        last: Mapping[str, int] | None = None,
    ) -> None:
        self._name = name
        self._folder = folder
        self._client = client
        self._interval = int(options.get("interval", 1))
        self._sections = bool(options.get("sections"))
        self.last = dict(last or {})

    def of(self, lines: Iterable[Line]) -> list[Line]:
        """`lines` less what the tracker is not sent; those of which nothing is left are gone."""
        seen = (self._seen(line) for line in lines if not line.to or self._name in line.to)
        return [line for line in seen if line.values or line.media]

    def _seen(self, line: Line) -> Line:
        if line.media is not None:
            there = not (file := line.media.get("file")) or (self._folder / file).exists()  # or somebody deleted it
            return line if there and line.media["kind"] in self._client.takes else replace(line, media=None)
        held = {name: self._client.holds(value) for name, value in line.values.items() if self._due(name, line.step)}
        values: dict[str, Value] = {
            sectioned(name) if self._sections else name: value for name, value in held.items() if value is not ABSENT
        }
        return replace(line, values=values)

    def _due(self, name: str, step: int) -> bool:
        """Whether `interval` steps have gone by since the name was sent, or it goes back, or twice at one step."""
        before = self.last.get(name)
        due = before is None or not before < step < before + self._interval
        if due:
            self.last[name] = step
        return due


def sectioned(name: str) -> str:
    """`val_loss` -> `val/loss`, `gpu_0_power` -> `gpu/0/power`; a name without a section stays."""
    return SECTION.sub(lambda found: "/".join([*filter(None, found.groups()), ""]), name, count=1)
