"""A tracker of the user's own: any `accelerate.tracking.GeneralTracker`, by dotted name, run as every other tracker.

`CUSTOM_CLASS=package.module.Class` is made with the run's name (and a `logging_dir` where it requires one), as
accelerate does; `package.module.instance` is taken as it is. What its `log` returned from counts as stored.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Literal, cast

from accelerate.tracking import GeneralTracker

from lib.errors import Refused
from lib.journal.lines import Line, Value
from lib.track.client import Absent, Point, Target


class Tracker:
    rebuilds = False
    withdraws = False
    repeats: Literal["all", "last", "first"] = "all"
    takes: frozenset[str] = frozenset()

    def __init__(self, target: Target) -> None:
        self._target = target
        self._tracker = _made(str(target.options.get("class", "")), target)

    def start(self, *, fresh: bool) -> str:
        self._tracker.start()
        self._tracker.store_init_configuration(dict(self._target.config))
        return str(self._tracker.name)

    def holds(self, value: Value) -> Value | Absent:
        return value

    def log(self, lines: Sequence[Line]) -> None:
        for line in lines:
            self._tracker.log(dict(line.values), step=line.step, **line.options.get("custom", {}))

    def finish(self, *, failed: bool) -> str:
        self._tracker.finish()
        return ""

    def stored(self) -> list[Point]:
        if not hasattr(self._tracker, "stored"):
            raise Refused(
                f"{type(self._tracker).__name__} has no stored(), which would give (step, name, value) of all that it "
                "holds: a custom tracker is not read back without it"
            )
        return cast(list[Point], self._tracker.stored())


def _made(dotted: str, target: Target) -> Any:
    """The user's GeneralTracker that `dotted` names, an instance of it where it names a class.

    Raises:
        Refused: it can't be imported, or is something else.
    """
    module, _, name = dotted.replace(":", ".").rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as problem:  # whatever the user's module raises
        raise Refused(f"CUSTOM_CLASS={dotted}: can't be imported ({type(problem).__name__}: {problem})") from problem
    if isinstance(found, GeneralTracker):
        return found
    if not (isinstance(found, type) and issubclass(found, GeneralTracker)):
        raise Refused(f"CUSTOM_CLASS={dotted}: not a subclass or an instance of accelerate.tracking.GeneralTracker")
    if not getattr(found, "requires_logging_directory", False):
        return found(target.name)
    place = target.folder / "custom"
    place.mkdir(exist_ok=True)
    return found(target.name, str(place))
