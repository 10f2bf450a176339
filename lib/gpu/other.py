"""What there is where NVML is not: AMD's and Intel's GPUs through PyTorch's counters, and the host through psutil."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from lib.gpu.readings import FIELDS, HOST_FIELDS, MIB, Absent, Gpu, Reading

LEAST_S = 0.1  # of a processor's time between two looks, for psutil to tell its load
COUNTERS = {  # field -> PyTorch's function, and what its answer is divided by
    "utilization": ("utilization", 1),
    "memory_used": ("device_memory_used", MIB),
    "temperature": ("temperature", 1),
    "power": ("power_draw", 1),  # [W] of both, whatever the documentation of torch.cuda says
    "sm_clock": ("clock_rate", 1),
}


class Torch:
    """AMD's (`rocm`) or Intel's (`xpu`) GPUs. `counters` is torch.cuda or torch.xpu.

    What each GPU is called and how much memory it has says the trainer: asking here would take memory on it.
    """

    fields = FIELDS

    def __init__(self, kind: str, devices: Sequence[Mapping[str, Any]], counters: Any) -> None:
        """Raises Absent: it has no such GPU. A module, or what a test puts in its place, is Any."""
        self.kind = kind
        self.about = f"PyTorch's counters of {kind}"
        self.gpus = [Gpu(index, **device) for index, device in enumerate(devices)]
        if not self.gpus:
            raise Absent(f"no {kind} GPU")
        self._counters = counters

    def read(self, position: int) -> Reading:
        values: list[float | None] = []
        faults: dict[str, str] = {}
        for field in FIELDS:
            name, unit = COUNTERS.get(field, ("", 1))
            value = None
            if counter := getattr(self._counters, name, None):
                try:
                    value = float(counter(position)) / unit
                except Exception as problem:  # amdsmi and pyzes, which need not be installed, raise what they like
                    faults[field] = f"{type(problem).__name__}: {problem}".splitlines()[0]
            values.append(value)
        return Reading(values, faults)


class Host:
    """The machine's processors and memory, as the one entry of a list of GPUs."""

    kind = "host"
    fields = HOST_FIELDS

    def __init__(self) -> None:
        memory = psutil.virtual_memory().total / MIB
        self.about = f"{psutil.cpu_count()} processors"
        self.gpus = [Gpu(0, "", "host", memory)]
        psutil.cpu_percent()  # the first call only begins to count
        time.sleep(LEAST_S)

    def read(self, position: int) -> Reading:
        memory = psutil.virtual_memory()
        return Reading([psutil.cpu_percent(), (memory.total - memory.available) / MIB])
