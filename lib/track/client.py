"""What a tracker is to us: a client that is started, handed lines of the journal, and finished, in its own process.

To add one: a file `to_<name>.py` with a class `Tracker` of this shape; see docs/adding-a-tracker.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from lib.journal.folder import RunFolder
from lib.journal.lines import Line, Value
from lib.track import settings

Point = tuple[int, str, Value]  # step, name, value


@dataclass(frozen=True)
class Target:
    """The run as a tracker sees it; `id` is the same at each attempt, names may repeat."""

    id: str
    project: str
    name: str
    folder: Path
    config: dict[str, Any]
    options: dict[str, Any]


class Client(Protocol):
    """One tracker. Anything it raises ends its process, with one warning; the journal keeps what it did not take."""

    rebuilds: bool  # a point sent twice would be stored twice: each start writes the store from the first line

    def start(self, *, fresh: bool) -> str:
        """Open the run; how the user looks at it. `fresh`: forget first what the store already holds of this run."""

    def log(self, lines: Sequence[Line]) -> None:
        """Take `lines`. On return they are stored, or `rebuilds` is true."""

    def finish(self, *, failed: bool) -> str:
        """Close the run, marked when it ended badly; what is left for the user to do, or ""."""

    def stored(self) -> list[Point]:
        """What the tool's own reader finds of this run, each point as often as it is there."""


def connect(name: str, folder: RunFolder) -> Client:
    """The client of the tracker `name` for the run in `folder`; its package is imported here and nowhere else."""
    record = folder.configuration
    target = Target(
        id=folder.id,
        project=folder.project,
        name=folder.name,
        folder=folder.path,
        config={**record.get("values", {}), "provenance": record.get("provenance", {})},
        options=settings.read(folder.trackers).get(name, {}),
    )
    module = importlib.import_module(f"lib.track.to_{name}")
    return cast(Client, module.Tracker(target))
