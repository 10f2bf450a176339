"""GoodSeed, in place of Neptune: a local SQLite database per run. A point's key is its name and step: sent twice, once.

The databases lie in GoodSeed's own store, GOODSEED_HOME or ~/.goodseed, not in the run folder: there `goodseed serve`
shows all runs of all projects side by side, and `goodseed upload` finds them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import goodseed
from goodseed.config import get_run_db_path
from goodseed.storage import LocalStorage, read_metrics, read_string_series

from lib.journal.lines import Line, Value
from lib.track.client import ABSENT, Absent, Point, Target, as_float

MEDIA = "media/"  # texts that were logged as media are series of strings below this name


class Tracker:
    rebuilds = False
    withdraws = True
    repeats: Literal["all", "last", "first"] = "last"
    takes = frozenset(["text"])

    def __init__(self, target: Target) -> None:
        self._target = target
        self._path = get_run_db_path(target.project, target.id)
        self._run: Any = None  # goodseed.Run; the package is not typed
        self._store: Any = None  # goodseed's LocalStorage: unlike Run.log_metrics it takes the time of a point

    def start(self, *, fresh: bool) -> str:
        target = self._target
        if fresh:
            LocalStorage(self._path).delete_db_file()
        known = self._path.exists()
        if known:
            with LocalStorage(self._path) as store:
                store.set_meta("status", "failed")  # "running", after a SIGKILL, GoodSeed would not resume
        self._run = goodseed.Run(
            project=target.project,
            run_id=None if known else target.id,
            resume_run_id=target.id if known else None,
            name=target.name,
            description=target.options.get("notes") or None,
            tags=target.options.get("tags") or None,
            storage="local",
            capture_hardware_metrics=False,
            capture_stdout=False,
            capture_stderr=False,
            capture_traceback=False,
            git_ref=False,
        )
        self._run["parameters"] = dict(target.config)
        self._run.log_configs({name: text for name in ("group", "job_type") if (text := target.options.get(name))})
        self._store = LocalStorage(self._path)
        return "make goodseed-show"

    def holds(self, value: Value) -> Value | Absent:
        if isinstance(value, int | float):  # True is 1
            number = as_float(value)
            return ABSENT if math.isnan(number) else number  # SQLite has no nan
        return ABSENT if value is None else value

    def log(self, lines: Sequence[Line]) -> None:
        points = [(name, line.step, value, int(line.time)) for line in lines for name, value in line.values.items()]
        texts = [
            (MEDIA + line.media["name"], line.step, line.media["text"], int(line.time)) for line in lines if line.media
        ]
        self._store.log_metric_points([point for point in points if not isinstance(point[2], str)])
        self._store.log_string_points([point for point in points if isinstance(point[2], str)] + texts)

    def finish(self, *, failed: bool) -> str:
        self._store.close()
        self._run.close(status="failed" if failed else "finished")
        return ""

    def stored(self) -> list[Point]:
        points = read_metrics(self._path) + read_string_series(self._path)["points"]
        return [(int(p["step"]), p["path"], p["value"]) for p in points if not p["path"].startswith(MEDIA)]
