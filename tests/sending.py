"""A run's journal handed to a tracker's client in this process: what a worker does, without waiting for one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.journal import folder, lines
from lib.track import check, settings
from lib.track.client import Client, connect
from lib.track.run import Run
from lib.track.settings import Settings
from lib.track.view import View

CONFIG = {"values": {"MODEL": "lenet5", "LEARNING_RATE": 0.004, "NOTE": "x" * 9000}, "provenance": {"argv": ["a", "b"]}}

PATIENCE_S = 120


def create(runs: Path, **symbols: Any) -> Run:
    texts = {"config.json": json.dumps(CONFIG)}
    return Run.create(runs, "project", "run", texts=texts, trackers=Settings(PATIENCE_S, **symbols))


def logged(runs: Path, tracker: str, points: Sequence[tuple[int, Mapping[str, Any]]], **told: Any) -> folder.RunFolder:
    """A run with `points` in its journal and with `tracker`, which is told so; nothing is sent."""
    with create(runs) as run:
        for step, values in points:
            run.log(values, step)
        run.finish({})
    settings.write(run.store.trackers, {tracker: told})
    return run.store


def rewound(runs: Path, tracker: str) -> Run:
    """Life 2 of a run that logged steps 0-69 in its first and went on after 50 to 99; the tracker holds all, once."""
    with create(runs, **{f"enable_{tracker}": True}) as run:
        for step in range(70):
            run.log(check.curves(step), step)
        run.interrupted("SIGTERM")
    with Run(run.store, Settings(PATIENCE_S, **{f"enable_{tracker}": True})) as again:  # type: ignore[arg-type]
        again.rewind(50)
        for step in range(51, 100):
            again.log(check.curves(step + 1000), step)
        again.finish({})
    assert check.compare(tracker, run.store) == (600, [], 600)
    return again


def send(store: folder.RunFolder, tracker: str, *, fresh: bool = False, failed: bool = False) -> Client:
    """All of the journal to a client of its own."""
    client = connect(tracker, store)
    client.start(fresh=fresh)
    client.log(View(tracker, client, {}, store.path).of(lines.read(store.path)))
    client.finish(failed=failed)
    return client


def send_media(store: folder.RunFolder, tracker: str, media: Sequence[Mapping[str, Any]], step: int) -> None:
    client = connect(tracker, store)
    client.start(fresh=False)
    client.log([lines.Line(i, 1.5 + i, step, {}, media=dict(one)) for i, one in enumerate(media)])
    client.finish(failed=False)
