"""The thread that reads the GPUs. A call of a driver may hang for ever; who wants the samples must not."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from lib.gpu.readings import Absent, Reading, Source

NO_ANSWER = {"gpu": "the driver does not answer"}


@dataclass(frozen=True)
class Sample:
    """All GPUs, one after the other, from `time` on."""

    time: float
    readings: list[Reading]


class Probe:
    """Reads the GPUs of a source every `interval_s`; `posted` has the samples, and `wake` is readable when it has one.

    The source itself is opened in the thread, too: it is the first thing posted, or Absent.
    """

    def __init__(self, open_source: Callable[[], Source], interval_s: float) -> None:
        self.posted: queue.SimpleQueue[Source | Absent | Sample] = queue.SimpleQueue()
        self.wake, self._woken = os.pipe()
        self._interval_s = interval_s
        self._open = open_source
        self._source: Source | None = None
        self._hung: set[int] = set()  # positions of GPUs that a thread before this one still waits for
        self._asked: int | None = None  # the position that is being read
        self._turn = threading.Lock()  # held while it changes who reads, and what
        self._start()

    def abandon(self) -> None:
        """The GPU that is being read does not answer: go on without it, in another thread, until it does."""
        with self._turn:
            if self._asked is not None:
                self._hung.add(self._asked)
                self._start()

    def _start(self) -> None:
        self._asked = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _post(self, what: Source | Absent | Sample) -> None:
        self.posted.put(what)
        os.write(self._woken, b".")

    def _run(self) -> None:
        if self._source is None:
            try:
                self._source = self._open()
            except Absent as why:
                self._post(why)
                return
            self._post(self._source)
        due = time.monotonic()
        while (sample := self._sample(self._source)) is not None:
            self._post(sample)
            due += self._interval_s * (int((time.monotonic() - due) / self._interval_s) + 1)
            time.sleep(max(0.0, due - time.monotonic()))

    def _sample(self, source: Source) -> Sample | None:
        """None when another thread has taken over meanwhile."""
        sample = Sample(time.time(), [])
        for position in range(len(source.gpus)):
            if position in self._hung:
                sample.readings.append(Reading(None, NO_ANSWER))
                continue
            self._asked = position
            reading = source.read(position)
            with self._turn:
                if threading.current_thread() is not self._thread:
                    self._hung.discard(position)  # it has answered at last: whoever reads now may read it again
                    return None
                self._asked = None
            sample.readings.append(reading)
        return sample
