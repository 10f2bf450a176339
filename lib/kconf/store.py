"""The pair .config and config.py in a folder: written whole, together, by one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DOTCONFIG = ".config"
CONFIG_PY = "config.py"


def write_pair(folder: Path, dotconfig: str, config_py: str) -> None:
    """Replaces both files. What .config held before, if it differs, is kept as .config.old.

    A reader between the two replacements sees by config.py's `dotconfig_sha256` that they do not belong together.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        before = _text(folder / DOTCONFIG)
        if before not in (None, dotconfig):
            replace(folder / f"{DOTCONFIG}.old", before or "")
        if before != dotconfig or _text(folder / CONFIG_PY) != config_py:
            replace(folder / DOTCONFIG, dotconfig)
            replace(folder / CONFIG_PY, config_py)
            for stale in (folder / "__pycache__").glob("config.*.pyc"):
                stale.unlink(
                    missing_ok=True
                )  # Python compares size and whole seconds only, and would load the old values


def replace(path: Path, text: str) -> None:
    """Writes a file whole: readers see the old text or the new one, never half of it."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        fresh.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    with (folder / f"{DOTCONFIG}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
