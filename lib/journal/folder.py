"""The folder of a run, `runs/<project>/<run>/`: everything that a run is. This class owns its files.

    config.json .config config.py     the configuration: all values, origins, provenance
    environment.json dirty.diff       where and with what it ran
    journal.jsonl events.jsonl        what was logged; starts and ends, an attempt each
    checkpoints/ trackers/ console.log curves.png
    lock                              held by the trainer while it lives
    result.json                       its appearance means: done

The state of a run is derived from these, never stored: after SIGKILL no status file would be right.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lib.errors import Refused


def write_whole(path: Path, text: str) -> None:
    """Put `text` at `path` all at once: a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def append_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Append `entry` with the time as one JSON line, with one write."""
    data = json.dumps({"time": time.time(), **entry}).encode() + b"\n"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines at `path`, without those that are torn; none when there is no file."""
    try:
        raw = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    entries = []
    for line in raw:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Put result.json into `folder`: the run is done. Its appearance is atomic."""
    write_whole(folder / "result.json", json.dumps(result, indent=1) + "\n")


class Lock:
    """A file that one process holds; the kernel lets it go when that process dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def take(self, patience_s: float = 1.0) -> bool:
        """True when this process holds it now; False when another still has it after `patience_s`."""
        file = self._path.open("a+")
        until = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    file.close()
                    return False
                time.sleep(0.05)
        file.truncate(0)
        file.write(f"{os.getpid()} {socket.gethostname()}\n")
        file.flush()
        self._file = file
        return True

    def free(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def holder(self) -> str | None:
        """`pid host` of the process that has it, None when nobody has."""
        try:
            with self._path.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return file.read().strip() or "another process"
        except FileNotFoundError:
            pass
        return None


@dataclass(frozen=True)
class RunFolder:
    """The files of one run at `path`."""

    path: Path

    @classmethod
    def create(cls, runs: Path, project: str, name: str) -> RunFolder:
        """A new folder for the run `name`, or `name-2`, `name-3`, … when there is one of that name."""
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

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def project(self) -> str:
        return self.path.parent.name

    @property
    def id(self) -> str:
        """The run's own identifier, the same in every tracker and at each attempt; names may repeat, this does not."""
        return str(next(event["id"] for event in self.events if event.get("event") == "created"))

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

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
        try:
            return dict(json.loads((self.path / "config.json").read_text()))
        except (FileNotFoundError, ValueError):
            return {}

    @property
    def events(self) -> list[dict[str, Any]]:
        return read_lines(self.path / "events.jsonl")

    @property
    def attempts(self) -> int:
        """How often the run was started."""
        return sum(event.get("event") == "start" for event in self.events)

    @property
    def result(self) -> dict[str, Any] | None:
        try:
            return dict(json.loads((self.path / "result.json").read_text()))
        except (FileNotFoundError, ValueError):
            return None

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
    candidates = [Path(text), runs / text, *runs.glob(f"*/{text}")] if text else []
    found = {path.resolve() for path in candidates if (path / "config.json").is_file()}
    if len(found) == 1:
        return RunFolder(found.pop())
    if found:
        raise Refused(f"{asked_as}={text}: {len(found)} projects have such a run. Give its path: runs/<project>/{text}")
    newest = sorted(runs.glob("*/*/config.json"), key=lambda path: path.stat().st_mtime)[-1:]
    hint = f"the newest is {newest[0].parent}" if newest else f"there is none yet below {runs}"
    raise Refused(f"{asked_as}={text}: no such run folder; {hint}")
