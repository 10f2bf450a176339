"""How far a tracker is with a run: kept in `trackers/<name>.json`, written whole, by the worker that holds its lock."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Self

from lib.files import read_object, write_whole
from lib.journal import lines
from lib.journal.folder import RunFolder


@dataclass
class State:
    """What the tracker has of the journal. A run that it has never seen is the default."""

    offset: int = 0  # [bytes] of the journal that it was handed since it was started from `begin`
    closed: bool = False  # and its run was closed after them
    fresh: bool = False  # what it holds of this part must be taken back first
    rebuilds: bool = False  # until the run is closed, nothing of the part is sure to be stored
    handed: int = 0  # [bytes] that it was handed at any time, and may hold already
    highest: int = -1  # the highest step among them
    last: dict[str, int] = field(default_factory=dict)  # name -> the step at which it was sent last
    part: int = 1  # 2 is the run `<name>-r2`, where a rewind could not be taken back
    begin: int = 0  # [bytes] where the part begins in the journal

    @classmethod
    def of(cls, folder: RunFolder, tracker: str) -> Self:
        """What was saved last."""
        kept = read_object(folder.trackers / f"{tracker}.json") or {}
        known = {entry.name for entry in fields(cls)}
        return cls(**{name: value for name, value in kept.items() if name in known})

    def save(self, folder: RunFolder, tracker: str) -> None:
        write_whole(folder.trackers / f"{tracker}.json", json.dumps(asdict(self)))

    def sent(self, end: int, highest: int) -> None:
        """The journal was handed over up to `end`; the highest step of it was `highest`."""
        self.offset, self.handed, self.highest = end, max(self.handed, end), max(self.highest, highest)

    def repeat(self) -> None:
        """The part is to be handed over again, from its first line."""
        self.offset, self.last = self.begin, {}

    def withdraw(self) -> None:
        """The same, and nothing of what it holds stays."""
        self.repeat()
        self.handed, self.highest, self.fresh = self.begin, -1, True

    def link(self) -> None:
        """What was not handed over yet goes to a new part."""
        self.part, self.begin = self.part + 1, self.handed
        self.repeat()
        self.highest = -1

    @property
    def stored(self) -> int:
        """Bytes of the journal that are sure to be stored."""
        return self.begin if self.rebuilds and not self.closed else self.offset


def size_of(folder: RunFolder) -> int:
    """Bytes of the run's journal, up to the end of its last whole line."""
    path = folder.path / lines.NAME
    return lines.whole_size(path) if path.exists() else 0


def behind(folder: RunFolder, tracker: str) -> bool:
    """Whether the tracker lacks something of the run: points, or that it was closed."""
    state = State.of(folder, tracker)
    return state.stored < size_of(folder) or not state.closed


def points_left(folder: RunFolder, tracker: str) -> int:
    """The values and media that the tracker is not sure to have."""
    ahead = lines.Reader(folder.path / lines.NAME, State.of(folder, tracker).stored).rest()
    counted = [line for line in lines.effective(ahead) if not line.to or tracker in line.to]
    return sum(len(line.values) + (line.media is not None) for line in counted)


def lacking(folder: RunFolder, tracker: str) -> str:
    """The same in words."""
    count = points_left(folder, tracker)
    return f"{count} point{'s' * (count != 1)}" if count else "its end"
