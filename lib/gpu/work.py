"""How long this process computes in a step, without its waits for the others: what tells a straggler from who waits.

From the start of a step to the end of its last backward pass, before the wait for the gradients of the others. On a GPU
by events that are read when the device is long past them: nothing here waits for it.
"""

from __future__ import annotations

import collections
import time
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Variable

Moment = Any  # seconds, or a torch.cuda.Event, whose methods have no types


class NoWork:
    """Of a process that has no others to be compared with."""

    def begins(self) -> None:
        """A step begins here."""

    def last_backward(self, loss: Tensor) -> None:
        """The backward pass through `loss`, which follows, is the last of this step."""

    def seconds(self) -> float:
        """Seconds of work since the last call, as far as the device is; 0 when nobody counts."""
        return 0.0


class Work(NoWork):
    """The stopwatch of one process on `device`."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._began: Moment = None
        self._spans: collections.deque[tuple[Moment, Moment]] = collections.deque()
        self._seconds = 0.0

    def begins(self) -> None:
        self._began = self._now()
        self._add()

    def last_backward(self, loss: Tensor) -> None:
        if loss.requires_grad:
            loss.register_hook(self._passing)  # type: ignore[no-untyped-call]

    def seconds(self) -> float:
        self._add()
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _passing(self, _: Tensor) -> None:
        # What is queued first runs first at the end of the pass: before DistributedDataParallel's wait.
        Variable._execution_engine.queue_callback(self._ended)  # type: ignore[attr-defined]  # as torch's own FSDP does

    def _ended(self) -> None:
        if self._began is not None:
            self._spans.append((self._began, self._now()))
            self._began = None

    def _now(self) -> Moment:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()  # type: ignore[no-untyped-call]
        return event

    def _add(self) -> None:
        while self._spans and (not self._cuda or self._spans[0][1].query()):
            began, ended = self._spans.popleft()
            self._seconds += began.elapsed_time(ended) / 1000 if self._cuda else ended - began
