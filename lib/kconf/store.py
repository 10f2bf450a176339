"""The pair .config and config.py in a folder: written whole, together, by one process at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib import files
from lib.options import CONFIG_PY, DOTCONFIG


def write_pair(folder: Path, dotconfig: str, config_py: str) -> None:
    """Replaces both files. What .config held before, if it differs, is kept as .config.old.

    A reader between the two replacements sees by config.py's `dotconfig_sha256` that they do not belong together.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        before = _text(folder / DOTCONFIG)
        texts = {folder / f"{DOTCONFIG}.old": before} if before is not None and before != dotconfig else {}
        texts |= {folder / DOTCONFIG: dotconfig, folder / CONFIG_PY: config_py}
        if before != dotconfig or _text(folder / CONFIG_PY) != config_py:
            for left in [*folder.glob(f".{DOTCONFIG}*.tmp"), *folder.glob(f".{CONFIG_PY}.*.tmp")]:
                left.unlink(missing_ok=True)  # by a process that was killed: no other writes while we hold the lock
            files.write_together(texts)
            for stale in (folder / "__pycache__").glob("config.*.pyc"):
                stale.unlink(missing_ok=True)  # Python compares size and whole seconds, and would load the old values


def _text(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8", errors="surrogateescape")  # byte by byte: also its line ends
    except FileNotFoundError:
        return None


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    with (folder / f"{DOTCONFIG}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
