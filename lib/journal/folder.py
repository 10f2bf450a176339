"""The folder of a run, `runs/<project>/<run>/`: everything that a run is. This class owns its files.

    config.json .config config.py     the configuration: all values, origins, provenance
    environment.json dirty.diff       where and with what it ran
    journal.jsonl events.jsonl        what was logged; starts and ends, an attempt each, and what it ran on
    checkpoints/ trackers/ console.log curves.png
    rank-N/                           what process N logs, when it is a run of its own in the trackers
    lock                              held by the trainer while it lives
    result.json                       its appearance means: done

The state of a run is derived from these, never stored: after SIGKILL no status file would be right.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib import names
from lib.errors import Refused
from lib.files import Lock, append_line, read_lines, read_object, shown, write_whole
from lib.journal import secrets


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Put result.json into `folder`: the run is done. Its appearance is atomic."""
    write_whole(folder / "result.json", json.dumps(secrets.without(result), indent=1) + "\n")


@dataclass(frozen=True)
class RunFolder:
    """The files of one run at `path`."""

    path: Path

    @classmethod
    def create(cls, runs: Path, project: str, name: str) -> RunFolder:
        """A new folder for the run `name`, or `name-2`, `name-3`, … when there is one of that name.

        Raises:
            Refused: a name that can't be a folder's.
        """
        for symbol, text in zip(names.FOLDERS, (project, name), strict=True):
            if why := names.fault(text):
                raise Refused(f"{symbol}={text[:120]}: {why}")
        (runs / project).mkdir(parents=True, exist_ok=True)
        attempt, path = 1, runs / project / name
        while True:
            try:
                path.mkdir()
            except FileExistsError:
                attempt += 1
                path = runs / project / f"{name}-{attempt}"
                continue
            folder = cls(path)
            folder.trackers.mkdir()
            folder.record("created", id=uuid.uuid4().hex)
            return folder

    @classmethod
    def of_rank(cls, job: Path, rank: int) -> RunFolder:
        """What process `rank` of the job whose run folder is `job` logs as a run of its own."""
        folder = cls(job / f"rank-{rank}")
        folder.trackers.mkdir(parents=True, exist_ok=True)
        if not folder.events:
            folder.record("created", id=uuid.uuid4().hex, rank=rank)
        return folder

    @property
    def job(self) -> RunFolder:
        """The run that this one is a process of; itself when it is not."""
        of_rank = any("rank" in event for event in self.events if event.get("event") == "created")
        return RunFolder(self.path.parent) if of_rank else self

    @property
    def processes(self) -> list[RunFolder]:
        """This run, and those of the job's other processes that log."""
        return [self, *(RunFolder(path.parent) for path in sorted(self.path.glob("rank-*/events.jsonl")))]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def project(self) -> str:
        return self.job.path.parent.name

    @property
    def id(self) -> str:
        """The run's own identifier, the same in every tracker and at each attempt; names may repeat, this does not."""
        return str(next(event["id"] for event in self.events if event.get("event") == "created"))

    @property
    def checkpoints(self) -> Path:
        return self.job.path / "checkpoints"

    @property
    def trackers(self) -> Path:
        return self.path / "trackers"

    @property
    def lock(self) -> Lock:
        return Lock(self.path / "lock")

    def lock_of(self, tracker: str) -> Lock:
        """Held by the one process that sends this run to `tracker`."""
        return Lock(self.trackers / f"{tracker}.lock")

    @property
    def configuration(self) -> dict[str, Any]:
        """config.json: `values`, `origins` and `provenance`; empty when the folder has none."""
        return read_object(self.path / "config.json") or {}

    @property
    def events(self) -> list[dict[str, Any]]:
        return read_lines(self.path / "events.jsonl")

    @property
    def data(self) -> str | None:
        """The fingerprint of what the run trains on."""
        return next((str(event["sha256"]) for event in self.events if event.get("event") == "data"), None)

    @property
    def machines(self) -> list[dict[str, Any]]:
        """What computed each attempt: `device`, `processes`, `threads`."""
        return [event for event in self.events if event.get("event") == "machine"]

    @property
    def environment(self) -> dict[str, Any]:
        """environment.json: host, Python, packages, commit; empty when the folder has none."""
        return read_object(self.path / "environment.json") or {}

    @property
    def changes(self) -> str:
        """What tracked files differed in from their commit, as a diff."""
        path = self.path / "dirty.diff"
        return path.read_bytes().decode(errors="surrogateescape") if path.exists() else ""

    @property
    def original(self) -> RunFolder | None:
        """The run that this one reproduces."""
        named = next((str(event["run"]) for event in self.events if event.get("event") == "reproduces"), None)
        return RunFolder(self.path.parent.parent / named) if named else None

    def reproduces(self, original: RunFolder) -> None:
        """Record that this run trains what `original` trained, once more."""
        self.record("reproduces", run=shown(original.path, self.path.parent.parent))

    @property
    def attempts(self) -> int:
        """How often the run was started."""
        return sum(event.get("event") == "start" for event in self.events)

    @property
    def result(self) -> dict[str, Any] | None:
        return read_object(self.path / "result.json")

    def keep(self, texts: Mapping[str, str]) -> None:
        """Write each of the texts, by file name, without secrets."""
        for file, text in texts.items():
            write_whole(self.path / file, secrets.in_file(file, text))

    def record(self, event: str, **details: Any) -> None:
        """Append an event (`start`, `end`, …) with its details."""
        append_line(self.path / "events.jsonl", {"event": event, **details})

    def state(self) -> str:
        """`finished`, `running`, `killed` (an attempt without an end), or how the last attempt ended."""
        if self.result is not None:
            return "finished"
        if self.lock.holder:
            return "running"
        attempts = [event for event in self.events if event.get("event") in ("start", "end")]
        if not attempts:
            return "empty"
        return str(attempts[-1].get("status", "failed")) if attempts[-1]["event"] == "end" else "killed"


def runs_of(runs: Path, project: str) -> Iterator[RunFolder]:
    """The runs of `project`, newest first."""
    folders = [path.parent for path in (runs / project).glob("*/config.json")]
    for path in sorted(folders, key=lambda folder: (folder / "config.json").stat().st_mtime, reverse=True):
        yield RunFolder(path)


def unfinished(runs: Path, project: str, configuration_hash: str) -> RunFolder | None:
    """The newest run of `project` with this configuration that is neither finished nor running."""
    for folder in runs_of(runs, project):
        same = folder.configuration.get("provenance", {}).get("hash") == configuration_hash
        if same and folder.state() not in ("finished", "running", "empty"):
            return folder
    return None


def find(runs: Path, text: str, *, asked_as: str = "RUN") -> RunFolder:
    """The run that the user means by `text`: a path, `project/run`, or a run's name that only one project has.

    Raises:
        Refused: there is none, or several.
    """
    candidates = [Path(text), runs / text, *(project / text for project in runs.glob("*"))] if text else []
    found = {path.resolve() for path in candidates if _is_run(path)}
    if len(found) == 1:
        return RunFolder(found.pop())
    if found:
        raise Refused(f"{asked_as}={text}: {len(found)} projects have such a run. Give its path: runs/<project>/{text}")
    newest = sorted(runs.glob("*/*/config.json"), key=lambda path: path.stat().st_mtime)[-1:]
    hint = f"the newest is {newest[0].parent}" if newest else f"there is none yet below {runs}"
    raise Refused(f"{asked_as}={text[:120]}: no such run folder; {hint}")


def _is_run(path: Path) -> bool:
    try:
        return (path / "config.json").is_file()
    except (OSError, ValueError):  # a name that is too long for one, or has a null byte
        return False
