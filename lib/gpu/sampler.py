"""The sampler: one process per node that samples its GPUs and, on the job's first node, makes the windows.

`python -m lib.gpu.sampler TOLD`, a JSON object of what the trainer knows. A line on its standard input, or its end,
means that training has ended or died: the last window is written then, and the sampler is gone, whatever may hang.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from lib.files import append_line
from lib.gpu import store
from lib.gpu.alarms import Faults
from lib.gpu.job import Job
from lib.gpu.probe import NO_ANSWER, Probe, Sample
from lib.gpu.readings import Absent, Reading, Source
from lib.gpu.store import Header, Row, Writer
from lib.gpu.windows import FIRST, Terms

LOOK_S = 0.5  # at least so often it looks whether the trainer lives
FIRST_SAMPLE_S, LAST_MARKS_S = 0.4, 0.4  # training's end waits for these, at most
STALE_INTERVALS, STALE_S = 3, 1.0  # without an answer, the longer of the two


@dataclass(frozen=True)
class Told:
    """What the trainer says."""

    run: str
    rank: int
    world: int
    unit: str
    interval_s: float
    gpu_price_per_hour: float
    electricity_price_per_kwh: float
    began: float  # time of day from which marks are for this sampler
    kind: str  # nvml, rocm or xpu
    devices: list[dict[str, Any]]

    def terms(self) -> Terms:
        return Terms(**{entry.name: getattr(self, entry.name) for entry in fields(Terms)})

    def source(self) -> Source:
        """Where samples come from. Raises Absent: not from GPUs."""
        if self.kind == "nvml":
            from lib.gpu.nvml import Nvml  # each source imports only what it needs

            return Nvml(os.environ.get("CUDA_VISIBLE_DEVICES"))
        import torch

        from lib.gpu.other import Torch

        return Torch(self.kind, self.devices, torch.cuda if self.kind == "rocm" else torch.xpu)


class Sampler:
    """The sampler of one node."""

    def __init__(self, told: Told) -> None:
        self._told = told
        folder = Path(told.run) / store.FOLDER
        self._own = folder / f"rank-{told.rank}"
        self._host = socket.gethostname()
        self._writer = Writer(self._own)
        self._job = Job(folder, told.terms(), told.began, self._tell) if told.rank == FIRST else None
        self._source: Source | None = None
        self._header: Header | None = None
        self._faults = Faults(0)
        self._sampled = False
        self._full = False  # the disk, and it has been said
        self._heard = time.monotonic()  # when the probe posted last
        self._silent = False
        self._probe = Probe(told.source, told.interval_s)

    def run(self) -> None:
        """Until the trainer lets go, or is gone."""
        parent = os.getppid()
        while os.getppid() == parent:
            ready, _, _ = select.select([sys.stdin, self._probe.wake], [], [], min(LOOK_S, self._told.interval_s))
            if sys.stdin in ready:
                break
            if self._probe.wake in ready:
                os.read(self._probe.wake, 4096)
                self._take()
            elif time.monotonic() - self._heard > max(STALE_S, STALE_INTERVALS * self._told.interval_s):
                self._stall()
        self._take()
        self._first_sample()
        if self._job:
            self._end(self._job)
        with contextlib.suppress(OSError):
            self._writer.close()

    def _first_sample(self) -> None:
        """A training may be over before the sampler has started: of that, too, there is one."""
        until = time.monotonic() + FIRST_SAMPLE_S
        while not self._sampled and (left_s := until - time.monotonic()) > 0:
            if select.select([self._probe.wake], [], [], left_s)[0]:
                os.read(self._probe.wake, 4096)
                self._take()

    def _end(self, job: Job) -> None:
        """The last window; the other processes are about to mark their last step, too."""
        until = time.monotonic() + LAST_MARKS_S
        job.look(time.time())
        while not job.complete() and time.monotonic() < until:
            time.sleep(LAST_MARKS_S / 20)
            job.look(time.time())
        job.end(time.time())

    def _take(self) -> None:
        """What the probe has posted."""
        while not self._probe.posted.empty():
            posted = self._probe.posted.get()
            self._heard, self._silent = time.monotonic(), False
            if isinstance(posted, Absent):
                self._do_without(posted)
            elif isinstance(posted, Sample):
                self._add(posted)
            else:
                self._describe(posted)

    def _do_without(self, why: Absent) -> None:
        """No GPUs: the host is sampled in their place."""
        from lib.gpu.other import Host

        self._tell(event="found", what=f"{why}: CPU and host memory are sampled instead")
        self._probe = Probe(Host, self._told.interval_s)

    def _describe(self, source: Source) -> None:
        self._source = source
        self._faults = Faults(len(source.gpus))
        self._head(Header(
            time=time.time(), host=self._host, kind=source.kind, about=source.about,
            interval_s=self._told.interval_s, fields=source.fields, gpus=tuple(source.gpus),
        ))  # fmt: skip
        if source.kind != "host":
            names = Counter(gpu.name for gpu in source.gpus)
            what = ", ".join(f"{count} × {name}" for name, count in names.items())
            self._tell(event="found", what=f"{what} ({source.about})")

    def _head(self, header: Header) -> None:
        """What is kept from now on is as `header` says."""
        self._writer.describe(header)
        if self._job:
            self._job.describe(header)
        self._header = header

    def _add(self, sample: Sample) -> None:
        assert self._source and self._header  # they were posted before
        if (gpus := tuple(self._source.gpus)) != self._header.gpus:  # one that was lost from the start is back
            with self._room():  # where there is none, it is tried again
                self._head(replace(self._header, gpus=gpus))
        for event in self._faults.look(sample.readings):
            self._tell(**event)
        self._keep(sample)

    def _stall(self) -> None:
        """No sample for long: a call hangs. It is data, too; the GPUs that still answer are read again."""
        if not self._silent:
            self._silent = True
            if self._header is None:
                self._tell(event="alarm", why="the driver does not answer: no samples yet")
        if self._header is not None:
            self._keep(Sample(time.time(), [Reading(None, NO_ANSWER)] * len(self._header.gpus)))
        self._heard = time.monotonic()
        self._probe.abandon()

    def _keep(self, sample: Sample) -> None:
        self._sampled = True
        row = Row(round(sample.time, 3), [_short(reading) for reading in sample.readings])
        with self._room():
            self._writer.add(row)
        if self._job:
            self._job.add(row)

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """A full disk costs the samples meanwhile, with one line."""
        try:
            yield
        except OSError as problem:
            if not self._full:
                self._tell(event="alarm", why=f"samples can't be written ({problem.strerror}): there is a gap in them")
            self._full = True
        else:
            self._full = False

    def _tell(self, **event: Any) -> None:
        with contextlib.suppress(OSError):
            append_line(self._own / store.EVENTS, {"host": self._host, **event})


def _short(reading: Reading) -> list[float | None] | None:
    """Its values as they are kept: no more digits than a sensor has, whole numbers as such."""
    if reading.values is None:
        return None
    rounded = [None if value is None else round(value, 2) for value in reading.values]
    return [int(value) if value is not None and value.is_integer() else value for value in rounded]


def main() -> None:
    with contextlib.suppress(OSError):
        os.nice(10)
    Sampler(Told(**json.loads(sys.argv[1]))).run()
    os._exit(0)  # whatever may still hang in the driver


if __name__ == "__main__":
    main()
