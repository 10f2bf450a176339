"""Aim: a repository beside the runs, or a server. A step is the key of a point there: sent twice, it is stored once.

Aim gives a run a name of its own, a hash; the run folder keeps it. What it writes shows only when it is in its index,
which `aim up` brings up to date as it serves, and we when a run ends and before we read.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import aim
from aim.sdk.index_manager import RepoIndexManager
from aimrocks.errors import RocksIOError

from lib.files import write_whole
from lib.journal.lines import Line, Value
from lib.options import ROOT
from lib.track.client import ABSENT, Absent, Point, Target, as_float

MOST_BINS = 512  # of a distribution
INDEX_TRIES = 6  # half a second apart


class Tracker:
    rebuilds = False
    withdraws = True
    repeats: Literal["all", "last", "first"] = "last"
    takes = frozenset(["image", "text", "figure", "histogram"])

    def __init__(self, target: Target) -> None:
        self._target = target
        where = target.options.get("repo") or str(target.runs / "aim")
        self._where = where if "://" in where else str(ROOT / Path(where).expanduser())
        self._kept = target.folder / "trackers" / "aim.hash"
        self._repo: Any = None  # aim.Repo; the package has no types
        self._run: Any = None  # aim.Run

    def start(self, *, fresh: bool) -> str:
        repo, known = self._open(), self._hash()
        if known and fresh:
            repo.delete_run(known)
            known = None
        self._run = aim.Run(
            known,
            repo=repo,
            experiment=self._target.options.get("experiment") or self._target.project,
            force_resume=True,  # of a process that was killed; no other can be in this run, our own lock sees to that
            system_tracking_interval=None,
            log_system_params=False,
            capture_terminal_logs=False,
        )
        write_whole(self._kept, self._run.hash)
        self._describe()
        return self._where if repo.is_remote_repo else "make aim-show"

    def holds(self, value: Value) -> Value | Absent:
        return as_float(value) if isinstance(value, int | float) else ABSENT  # True is 1

    def log(self, lines: Sequence[Line]) -> None:
        for line in lines:
            for name, value in line.values.items():
                self._put(value, name, line)
            if line.media is not None:
                self._put(self._shown(line.media), line.media["name"], line, context={"media": line.media["kind"]})

    def finish(self, *, failed: bool) -> str:
        self._run["status"] = "failed" if failed else "finished"
        self._run.close()
        self._index(self._run.hash)
        return ""

    def stored(self) -> list[Point]:
        known = self._hash()
        if known is None:
            return []
        repo = self._open()
        self._index(known)
        run = repo.get_run(known)
        metrics = run.metrics() if run else []
        return [(step, metric.name, value) for metric in metrics for step, (value, *_) in metric.data.items()]

    def _open(self) -> Any:
        """The repository; made when it is not there, or not whole, since making it locks the index."""
        if self._repo is None:
            absent = "://" not in self._where and not (Path(self._where) / ".aim" / "VERSION").exists()
            if absent:
                Path(self._where).mkdir(parents=True, exist_ok=True)
            self._repo = aim.Repo.from_path(self._where, init=absent)
        return self._repo

    def _hash(self) -> str | None:
        """What Aim calls the run, when it is there."""
        if not self._kept.exists():
            return None
        known = self._kept.read_text()
        aim.Repo._all_run_hashes.cache_clear()  # it is half a second old
        return known if self._open().run_exists(known) else None

    def _describe(self) -> None:
        options = self._target.options
        self._run.name = self._target.name
        self._run["hparams"] = dict(self._target.config)
        self._run["status"] = "running"
        for name in ("group", "job_type"):
            if options.get(name):
                self._run[name] = options[name]
        if options.get("notes"):
            self._run.description = options["notes"]
        for tag in options.get("tags", []):
            if tag not in self._run.tags:
                self._run.add_tag(tag)

    def _put(self, value: Any, name: str, line: Line, **about: Any) -> None:
        """As `Run.track` does; that has no way to say when the value was logged."""
        self._run._tracker._track(value, line.time, name, line.step, **{**line.options.get("aim", {}), **about})

    def _shown(self, media: Mapping[str, Any]) -> Any:
        """As an object of Aim's."""
        match media["kind"]:
            case "text":
                return aim.Text(media["text"])
            case "histogram":
                return _distribution(media["counts"], media["edges"])
            case _:
                return aim.Image(str(self._target.folder / media["file"]), caption=media.get("caption", ""))

    def _index(self, known: str) -> None:
        """Bring the index up to date, or leave that to an `aim up` that holds it."""
        if self._repo.is_remote_repo:
            return
        manager = RepoIndexManager(self._repo)
        for _ in range(INDEX_TRIES):
            with contextlib.suppress(RocksIOError):
                manager.index(known)
                break
            time.sleep(0.5)
        self._repo.container_pool.clear()  # else it would go on to read what was there before


def _distribution(counts: Sequence[float], edges: Sequence[float]) -> Any:
    """Of neighbouring bins put together where there are more than Aim takes."""
    several = -(-len(counts) // MOST_BINS)
    merged = [sum(counts[begin : begin + several]) for begin in range(0, len(counts), several)]
    width = (edges[-1] - edges[0]) / len(counts) * several
    return aim.Distribution(hist=merged, bin_range=(edges[0], edges[0] + width * len(merged)))
