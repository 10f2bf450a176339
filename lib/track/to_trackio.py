"""Trackio: a local SQLite database. Each point goes in under a key of its own: sent twice, it is stored once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import trackio
from trackio.sqlite_storage import SQLiteStorage

from lib.errors import Refused
from lib.journal.lines import Line
from lib.track.client import Point, Target


class Tracker:
    rebuilds = False

    def __init__(self, target: Target) -> None:
        self._target = target
        self._run: Any = None  # trackio.Run; the package has no type for it at its top level

    def start(self, *, fresh: bool) -> str:
        target = self._target
        if fresh:
            SQLiteStorage.delete_run(target.project, target.name, run_id=target.id)
        self._run = trackio.init(
            project=target.project,
            name=target.name,
            config=dict(target.config),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self._run.id = target.id  # its own would be new at each attempt
        return self._run.url or "make trackio-show"

    def log(self, lines: Sequence[Line]) -> None:
        if self._run.url:  # a Space or a server: Trackio's own sender has the queue
            for line in lines:
                self._run.log(dict(line.values), step=line.step)
            return
        SQLiteStorage.bulk_log(
            project=self._target.project,
            run=self._target.name,
            run_id=self._target.id,
            metrics_list=[dict(line.values) for line in lines],
            steps=[line.step for line in lines],
            timestamps=[datetime.fromtimestamp(line.time, UTC).isoformat() for line in lines],
            log_ids=[f"{self._target.id}-{line.seq}" for line in lines],
            config=self._run.config,
        )

    def finish(self, *, failed: bool) -> str:
        self._run.finish()
        return ""

    def stored(self) -> list[Point]:
        logs = SQLiteStorage.get_logs(self._target.project, self._target.name, run_id=self._target.id)
        own = {"step", "timestamp"}  # columns of Trackio's, beside the values
        return [(row["step"], name, value) for row in logs for name, value in row.items() if name not in own]


def show(project: str, port: int) -> None:
    """Serve the dashboard of `project` on the loopback address at `port`, until Ctrl-C.

    Raises:
        Refused: the port is taken.
    """
    try:
        trackio.show(project=project, server_port=port)
    except OSError as problem:
        raise Refused(f"TRACKIO_PORT={port}: {problem}. Try make trackio-show TRACKIO_PORT={port + 1}") from None
