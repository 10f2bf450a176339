"""The training process's side: it starts a sampler on each node, marks steps, and takes the windows that are finished.

Training pays for a line in a file now and then, and waits for nothing. The sampler (see sampler.py) reads the marks.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch

from lib.files import append_line
from lib.gpu import store
from lib.gpu.alarms import told
from lib.gpu.readings import MIB
from lib.gpu.work import NoWork, Work
from lib.options import ROOT

if TYPE_CHECKING:
    from lib.gpu import Settings

MARK_INTERVALS = 5  # a window has at least 10 samples: a mark for each 5 is often enough
LOOK_EVERY_S = 1.0
REVIVE_EVERY_S = 60.0
STALE_S = 5.0  # at least; and 3 intervals
EXIT_S = 1.0  # training's end is not delayed longer
NOT_FOR_THE_SAMPLER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_", "TORCHELASTIC_")


class Window(NamedTuple):
    """What the GPUs did until `time`, to be logged at the step that was done then; it never advances the step."""

    time: float
    step: int
    values: dict[str, float | int | str | None]


class NullMonitor:
    """What a run without GPU monitoring holds."""

    def begins(self) -> None:
        """An optimizer step begins: before its first forward pass."""

    def last_backward(self, loss: torch.Tensor) -> None:
        """The backward pass through `loss`, which follows, is the last of the step."""

    def mark(self, step: int, units: int) -> None:
        """The job is at `step`, and has gone through `units` tokens or images since the last mark. Never waits."""

    def windows(self) -> Iterator[Window]:
        """The windows that were finished since the last call; on process 0 only."""
        return iter(())

    def news(self) -> Iterator[str]:
        """What the user should know since the last call: what is sampled, what is lost and back; each once."""
        return iter(())

    def close(self) -> None:
        """Training ends: `windows` has the last one then, however short."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Monitor(NullMonitor):
    """One process of a job with GPU monitoring, whose run folder is `run`; the first on each node has the sampler."""

    def __init__(
        self, run: Path, settings: Settings, *, device: torch.device, unit: str, rank: int, local_rank: int, world: int
    ) -> None:
        self._folder = run / store.FOLDER
        self._interval_s = settings.gpu_monitor_interval_s
        self._rank = rank
        self._own = self._folder / f"rank-{rank}"  # of our sampler
        self._marks = self._folder / store.MARKS / f"rank-{rank}.jsonl"
        self._self = {"rank": rank, "local_rank": local_rank, "host": socket.gethostname(), "pid": os.getpid()}
        self._device = device
        self._work = Work(device) if world > 1 else NoWork()
        self._turn: float | None = None  # in which the last mark was written
        self._steps = 0  # that have begun since then
        self._pending: dict[str, int] = {}  # the last mark, and the units since the one that was written
        self._asked = self._looked = -LOOK_EVERY_S  # when it was looked for news and for windows
        self._revived = -REVIVE_EVERY_S
        self._stale = False
        self._told: dict[str, Any] = {}  # as JSON
        self._started = 0.0  # the sampler that runs now
        self._process: subprocess.Popen[bytes] | None = None
        if rank == 0:
            for old in self._marks.parent.glob("*.jsonl"):  # of an earlier attempt; nobody marks before we all have met
                old.unlink()
        self._earlier = {path: path.stat().st_size for path in self._folder.glob("**/*.jsonl")}  # of earlier attempts
        self._windows = self._tail(self._folder / store.WINDOWS)
        self._events: dict[Path, store.Tail] = {}
        if local_rank == 0:
            kind, devices = _hardware(device)
            self._told = {
                "run": str(run.resolve()), "rank": rank, "world": world, "unit": unit.removesuffix("s"),
                "interval_s": self._interval_s, "gpu_price_per_hour": settings.gpu_price_per_hour,
                "electricity_price_per_kwh": settings.electricity_price_per_kwh, "kind": kind, "devices": devices,
            }  # fmt: skip
            self._start()

    def begins(self) -> None:
        self._steps += 1
        self._work.begins()

    def last_backward(self, loss: torch.Tensor) -> None:
        self._work.last_backward(loss)

    def mark(self, step: int, units: int) -> None:
        self._pending = {"step": step, "units": units + self._pending.get("units", 0)}
        turn = time.time() // (MARK_INTERVALS * self._interval_s)  # of the clock: so that all processes mark one step
        if turn != self._turn:
            self._turn = turn
            self._flush()

    def windows(self) -> Iterator[Window]:
        now = time.monotonic()
        if self._rank == 0 and now >= self._looked + LOOK_EVERY_S:
            self._looked = now
            for entry in self._windows.read():
                yield Window(entry["time"], entry["step"], entry["values"])

    def news(self) -> Iterator[str]:
        now = time.monotonic()
        if now < self._asked + LOOK_EVERY_S:
            return
        self._asked = now
        yield from self._health(now)
        yield from self._reports()

    def close(self) -> None:
        self._asked = self._looked = -LOOK_EVERY_S  # the last of both is not held back
        process, self._process = self._process, None
        self._flush()
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it is gone
            os.write(process.stdin.fileno(), b"\n")  # a child that the trainer has forked may hold the pipe open
        process.stdin.close()
        try:
            process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _flush(self) -> None:
        """Write the mark that waits. What a full disk has no room for is the GPUs' loss, not the training's."""
        if not self._pending:
            return
        mark = {**self._pending, "steps": self._steps, "compute_s": self._work.seconds()}
        if self._device.type == "mps":  # only this process can tell
            mark["memory_mib"] = torch.mps.driver_allocated_memory() / MIB
        with contextlib.suppress(OSError):
            if not self._marks.exists():
                self._marks.parent.mkdir(parents=True, exist_ok=True)
                append_line(self._marks, {**self._self, "device": str(self._device), "uuid": _uuid(self._device)})
            append_line(self._marks, mark)
        self._pending, self._steps = {}, 0

    def _start(self) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_FOR_THE_SAMPLER)}
        kept["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
        self._started = time.time()
        command = [sys.executable, "-m", "lib.gpu.sampler", json.dumps({**self._told, "began": self._started})]
        try:
            self._own.mkdir(parents=True, exist_ok=True)
            with (self._own / "sampler.log").open("ab") as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=kept, cwd=ROOT,
                    start_new_session=True,
                )  # fmt: skip
        except OSError as problem:  # no memory, no process, a full disk: training goes on
            print(f"warning: the GPU sampler can't be started ({problem}): no GPU values", file=sys.stderr)

    def _health(self, now: float) -> Iterator[str]:
        """When the sampler has died another takes over; when its samples stay away, that is said."""
        if self._process is None:
            return
        if (status := self._process.poll()) is not None:
            if now >= self._revived + REVIVE_EVERY_S:
                self._revived = now
                assert self._process.stdin is not None
                self._process.stdin.close()
                how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
                self._start()
                yield f"warning: the GPU sampler {how}; another one takes over"
            return
        with contextlib.suppress(OSError):
            written = (self._own / store.SAMPLES).stat().st_mtime
            age_s = time.time() - max(written, self._started)  # until it has begun, what an earlier attempt has left
            stale = age_s > max(STALE_S, 3 * self._interval_s)
            if stale and not self._stale:
                yield f"warning: the GPU sampler has written nothing for {age_s:.0f} s: its values are stale"
            self._stale = stale

    def _tail(self, path: Path) -> store.Tail:
        return store.Tail(path, begin=self._earlier.get(path, 0))

    def _reports(self) -> Iterator[str]:
        if self._rank != 0:
            return
        for path in sorted(self._folder.glob(f"rank-*/{store.EVENTS}")):
            if path not in self._events:
                self._events[path] = self._tail(path)
            for event in self._events[path].read():
                yield news_of(event, host=event["host"] if event["host"] != self._self["host"] else "")


def news_of(event: Mapping[str, Any], *, host: str = "") -> str:
    """What an event of a sampler means to the user."""
    text = told(event, host=host)
    match event["event"]:
        case "found":
            return f"gpu: {text}{f' on {host}' if host else ''}"
        case "lost":
            return f"warning: {text}; its values and the totals are null until it is back"
        case "alarm":
            return f"warning: gpu: {text}"
    return text


def _hardware(device: torch.device) -> tuple[str, list[dict[str, Any]]]:
    """By what the GPUs of this machine are read, and what NVML would not say of them."""
    if torch.version.hip and device.type == "cuda":
        return "rocm", [_properties(torch.cuda, index) for index in range(torch.cuda.device_count())]
    if device.type == "xpu":
        return "xpu", [_properties(torch.xpu, index) for index in range(torch.xpu.device_count())]
    return "nvml", []


def _properties(backend: Any, index: int) -> dict[str, Any]:
    """Of torch.cuda or torch.xpu, which share no type."""
    told = backend.get_device_properties(index)
    uuid = f"GPU-{told.uuid}" if hasattr(told, "uuid") else ""
    return {"uuid": uuid, "name": told.name, "memory_total_mib": told.total_memory / MIB}


def _uuid(device: torch.device) -> str:
    """The GPU that this process computes on; "" where that is none."""
    if device.type not in ("cuda", "xpu"):
        return ""
    return str(_properties(getattr(torch, device.type), device.index or 0)["uuid"])
