"""What the console showed, kept: while a run goes on, everything printed also goes to a file in its folder."""

from __future__ import annotations

import contextlib
import io
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from lib.errors import silence
from lib.journal import secrets


class Tee(io.TextIOBase):
    """A text stream that writes to `screen` and to `kept`; to the outside it is `screen` (isatty, encoding, fileno).

    What is kept is kept in whole lines and without secrets.
    """

    def __init__(self, screen: TextIO, kept: TextIO) -> None:
        self.screen = screen
        self._kept = kept
        self._begun = ""  # a line that has no end yet

    def write(self, text: str) -> int:
        try:
            self.screen.write(text)
        except BrokenPipeError:  # `| head` has read enough, a tee or an ssh connection died: the run goes on
            silence(self.screen)
        whole, newline, rest = text.rpartition("\n")
        if newline:
            self._keep(self._begun + whole + newline)
            self._begun = ""
        self._begun += rest
        return len(text)

    def end(self) -> None:
        """Keep the line that has no end yet, too."""
        self._keep(self._begun)
        self._begun = ""

    def _keep(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a full disk or a late line never stops the run
            self._kept.write(secrets.scrubbed(text))

    def flush(self) -> None:
        try:
            self.screen.flush()
        except BrokenPipeError:
            silence(self.screen)

    def isatty(self) -> bool:
        return self.screen.isatty()

    def fileno(self) -> int:
        return self.screen.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.screen.encoding


@contextlib.contextmanager
def kept(path: Path) -> Iterator[None]:
    """Inside it, stdout and stderr are also appended to the file at `path`, line by line; so is what ends it."""
    before = sys.stdout, sys.stderr
    file = path.open("a", encoding="utf-8", errors="replace", buffering=1)
    tees = Tee(before[0], file), Tee(before[1], file)
    sys.stdout, sys.stderr = tees
    try:
        yield
    except Exception:
        with contextlib.suppress(OSError):
            file.write(secrets.scrubbed(traceback.format_exc()))
        raise
    finally:
        sys.stdout, sys.stderr = before
        for tee in tees:
            tee.end()
        with contextlib.suppress(OSError):  # a full disk never costs the run its end
            file.close()


def screen() -> TextIO:
    """stderr itself, for what is redrawn (a progress bar) and should not be kept."""
    return sys.stderr.screen if isinstance(sys.stderr, Tee) else sys.stderr
