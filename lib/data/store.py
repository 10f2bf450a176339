"""Folders of prepared data: whole or absent, and made once however many processes ask at the same time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from lib.data import DataError


def made_once(folder: Path, make: Callable[[Path], None], *, resumable: bool = False) -> Path:
    """`folder`; if it is not there, `make(part)` first fills a folder beside it, which then takes its name.

    Other processes wait meanwhile and find it made. What a killed process left unfinished is thrown away, or handed to
    the next `make` when that is `resumable`.

    Raises:
        DataError: the disk is full, or the place can't be written to.
    """
    try:
        if not folder.is_dir():
            _make_alone(folder, make, resumable)
    except OSError as failure:
        raise DataError(
            f"{folder}: can't be written ({failure}). Make room, or give yourself the right to"
        ) from failure
    return folder


def unmade(folder: Path) -> None:
    """Make `folder` one that is unfinished again, for `made_once` to mend."""
    part = _part(folder)
    shutil.rmtree(part, ignore_errors=True)
    folder.rename(part)


def _part(folder: Path) -> Path:
    return folder.with_name(folder.name + ".part")


def _make_alone(folder: Path, make: Callable[[Path], None], resumable: bool) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = _part(folder)
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():  # made while we waited
            return
        if not resumable:
            shutil.rmtree(part, ignore_errors=True)
        part.mkdir(exist_ok=True)
        try:
            make(part)
            _to_disk(part)
        except BaseException:
            if not resumable:
                shutil.rmtree(part, ignore_errors=True)
            raise
        part.rename(folder)


def _to_disk(folder: Path) -> None:
    """Have the files written out, so that a crash of the machine can't leave the name without the bytes."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
