"""A pseudo-terminal: what a user of `scripts/configure.py`, or of another script, sees and types."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from types import TracebackType

import pexpect
import pyte
from configuring import environment

ENTER, ESCAPE = "\r", "\x1b"
CTRL_C, CTRL_D, CTRL_U = "\x03", "\x04", "\x15"
CLEAR = "\x7f" * 20
CLEAN = {"TERM": "linux", "LC_ALL": "C.UTF-8"}


class Terminal:
    """A screen that shows what the verb prints, and the keyboard before it."""

    def __init__(
        self, root: Path, *words: str, rows: int = 40, columns: int = 100, script: str = "configure.py", **environ: str
    ) -> None:
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.printed = b""
        command = [str(root / "scripts" / script), *words]
        given = environment(**CLEAN | environ)
        for size in ("LINES", "COLUMNS"):  # an outer terminal's
            given.pop(size, None)
        self.child = pexpect.spawn(
            sys.executable, command, env=given, dimensions=(rows, columns), cwd=str(root.parent),
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's & ignores it
        )  # fmt: skip

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.child.close(force=True)

    @property
    def text(self) -> str:
        return "\n".join(self.screen.display)

    def sees(self, *words: str, within_s: float = 20) -> None:
        """Waits until the screen shows all the words."""
        end = time.monotonic() + within_s
        while not all(word in self.text for word in words):
            gone = not self._read() and not self.child.isalive()
            assert not gone and time.monotonic() < end, f"{words} never came:\n{self.text}"

    def press(self, keys: str, *words: str) -> None:
        self.child.send(keys)
        self.sees(*words)

    def resize(self, rows: int, columns: int) -> None:
        self.screen.resize(rows, columns)
        self.child.setwinsize(rows, columns)

    def ends(self, key: str = "") -> int:
        """The exit status after `key`, once everything that was printed is read."""
        self.child.send(key)
        while self.child.isalive() or self._read():
            self._read()
        self._read()
        self.child.close()
        return int(self.child.exitstatus if self.child.exitstatus is not None else -1)

    def _read(self) -> bool:
        try:
            got = self.child.read_nonblocking(65536, timeout=0.05)
        except (pexpect.TIMEOUT, pexpect.EOF):
            return False
        self.printed += got
        self.stream.feed(got)
        return True
