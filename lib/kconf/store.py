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
        texts = {folder / DOTCONFIG: dotconfig, folder / CONFIG_PY: config_py}
        if before not in (None, dotconfig):
            texts[folder / f"{DOTCONFIG}.old"] = before or ""
        if before != dotconfig or _text(folder / CONFIG_PY) != config_py:
            files.write_together(texts)
            for stale in (folder / "__pycache__").glob("config.*.pyc"):
                stale.unlink(missing_ok=True)  # Python compares size and whole seconds, and would load the old values


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
