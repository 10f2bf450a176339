"""Files that other processes read while we write them: whole or not at all, line by line, one holder at a time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any


def write_whole(path: Path, text: str) -> None:
    """Put `text` at `path` all at once: a reader sees the old file or the new one, never half of one."""
    write_together({path: text})


def write_together(texts: Mapping[Path, str]) -> None:
    """Put each text at its path; what can fail (a full disk) fails before the first of them is replaced."""
    fresh = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in texts}
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with fresh[path].open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in fresh.items():
            temporary.replace(path)
    finally:
        for temporary in fresh.values():
            temporary.unlink(missing_ok=True)


def append_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Append `entry` with the time, less its secrets, as one JSON line with one write; a torn line is closed first."""
    import json  # here and below: what only writes whole files is faster without these

    from lib.journal import secrets

    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        torn = b"" if ends_whole(fd) else b"\n"
        os.write(fd, torn + json.dumps({"time": time.time(), **secrets.without(entry)}).encode() + b"\n")
    finally:
        os.close(fd)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects at `path`, a line each, without what is torn or foreign; none when there is no file."""
    import json

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


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object at `path`; None when there is no file, or something else in it."""
    import json

    try:
        entry = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return entry if isinstance(entry, dict) else None


def shown(path: Path, root: Path) -> str:
    """`path` as it is typed and named from `root`, when it lies there."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def ends_whole(fd: int) -> bool:
    """Whether the open file is empty or ends in a newline."""
    size = os.fstat(fd).st_size
    return size == 0 or os.pread(fd, 1, size - 1) == b"\n"


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
        file.write(f"{os.getpid()} {os.uname().nodename}\n")
        file.flush()
        self._file = file
        return True

    def free(self) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)  # closing is not enough when a forked child has the file, too
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
