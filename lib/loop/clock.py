"""Time and its end: seconds of work, and signals that ask training to stop."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last comes when a terminal is closed


class Stop:
    """Notices SIGINT, SIGTERM and SIGHUP, so that the loop can end after a whole step; a second Ctrl-C ends at once.

    A SIGHUP that is ignored, as `nohup` has it, stays so.
    """

    def __init__(self) -> None:
        self.signal = 0

    def _notice(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        noticed = [number for number in STOPPING if not (ignored and number == signal.SIGHUP)]
        before = {number: signal.signal(number, self._notice) for number in noticed}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Clock:
    """Seconds of training, and of work between two logs without validation and checkpoints."""

    def __init__(self) -> None:
        self.earlier_s = 0.0  # of earlier attempts
        self.batches = 0  # of this process since the last `rate`
        self._began = self._saved = self._asked = time.monotonic()
        self._paused_s = 0.0

    @property
    def total_s(self) -> float:
        return self.earlier_s + time.monotonic() - self._began

    @property
    def since_save_s(self) -> float:
        return time.monotonic() - self._saved

    def saved(self) -> None:
        self._saved = time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count as work; a pause within a pause counts once."""
        began, before_s = time.monotonic(), self._paused_s
        yield
        self._paused_s = before_s + time.monotonic() - began

    def rate(self) -> float:
        """Batches per second of work since the last call."""
        now = time.monotonic()
        rate = self.batches / max(1e-9, now - self._asked - self._paused_s)
        self.batches, self._asked, self._paused_s = 0, now, 0.0
        return rate
