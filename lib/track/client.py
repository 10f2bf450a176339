"""What a tracker is to us: a client that is started, handed lines of the journal, and finished, in its own process.

To add one: a file `to_<name>.py` with a class `Tracker` of this shape; see docs/adding-a-tracker.md.
"""

from __future__ import annotations

import enum
import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

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
    runs: Path  # where all runs lie, and beside them what they share: a database, a repository
    config: dict[str, Any]
    options: dict[str, Any]  # `tags`, `notes`, `group`, `job_type`, and the tracker's own symbols without its prefix


class Absent(enum.Enum):
    """In place of a value: the tool has no place for it."""

    ABSENT = "absent"


ABSENT = Absent.ABSENT
KINDS = frozenset(
    ["image", "video", "table", "text", "histogram", "figure", "embedding", "alert", "artifact", "model", "graph"]
)  # of media; what each holds is said in media.py


class Client(Protocol):
    """One tracker. Anything it raises ends its process, with one warning; the journal keeps what it did not take."""

    rebuilds: bool  # a point sent twice would be stored twice: each start writes the store from the first line
    withdraws: bool  # what it has taken can be taken back (`start(fresh=True)`); else a rewind goes on in a linked run
    repeats: Literal["all", "last", "first"]  # which values of one name it keeps when a step comes more than once
    takes: frozenset[str]  # the kinds of media that it can show, of KINDS

    def start(self, *, fresh: bool) -> str:
        """Open the run; how the user looks at it. `fresh`: forget first what the store already holds of this run."""

    def holds(self, value: Value) -> Value | Absent:
        """What the tool's reader gives back of `value`: it is sent that, and nothing at all where that is ABSENT."""

    def log(self, lines: Sequence[Line]) -> None:
        """Take `lines`, each with values or with media that it `takes`. They are stored then, or `rebuilds` is true."""

    def finish(self, *, failed: bool) -> str:
        """Close the run, marked when it ended badly; what is left for the user to do, or ""."""

    def stored(self) -> list[Point]:
        """What the tool's own reader finds of this run's values, each point as often as it is there."""


def as_float(value: float) -> float:
    """The float nearest to `value`; of an integer beyond them all, which may have 4000 digits, an infinity."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def connect(name: str, folder: RunFolder, *, part: int = 1) -> Client:
    """The client of the tracker `name` for the run in `folder`; its package is imported here and nowhere else.

    `part` 2 is the linked run `<name>-r2`: what came after a rewind that the tracker could not take back.
    """
    record = folder.configuration
    linked = f"-r{part}" if part > 1 else ""
    options = settings.read(folder.trackers).get(name, {})
    target = Target(
        id=folder.id + linked,
        project=folder.project,
        name=(options.get("name") or folder.name) + linked,
        folder=folder.path,
        runs=folder.job.path.parent.parent,
        config={**record.get("values", {}), "provenance": record.get("provenance", {})},
        options=options,
    )
    module = importlib.import_module(f"lib.track.to_{name}")
    return cast(Client, module.Tracker(target))
