"""What a GPU says of itself at one moment, and what any source of that must offer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

MIB = 1 << 20

# The order in which a reading holds its values. A field that nothing offers is null in every reading.
FIELDS: tuple[str, ...] = (
    "utilization",  # [%] of the time in which a kernel ran, however small
    "memory_used",  # [MiB] without what the driver reserves
    "temperature",  # [°C]
    "power",  # [W]
    "sm_clock",  # [MHz]
    "memory_clock",  # [MHz]
    "throttle",  # bits, the reasons for a lower clock; see THROTTLE
    "energy",  # [J] a counter, since the driver was loaded
    "sm_active",  # [%] of the multiprocessors that had work; Hopper and later
    "tensor_active",  # [%] of the time in which the tensor cores computed; Hopper and later
)
HOST_FIELDS: tuple[str, ...] = ("cpu_utilization", "memory_used")  # [%], [MiB]
THROTTLE = {  # bit -> reason; power_cap is normal at full load. Idle (1) and clocks that were set (2) are no throttling
    0x4: "power_cap", 0x8: "hw_slowdown", 0x20: "sw_thermal", 0x40: "hw_thermal", 0x80: "power_brake",
}  # fmt: skip

Values = Sequence[float | None]


class Absent(Exception):
    """There is nothing to read here; the message says why."""


@dataclass(frozen=True)
class Gpu:
    """What of a GPU does not change; None where it does not say."""

    index: int  # as the driver counts
    uuid: str
    name: str
    memory_total_mib: float | None = None
    memory_reserved_mib: float | None = None
    power_limit_watts: float | None = None


@dataclass(frozen=True)
class Reading:
    """One look at one GPU: a value for each field, or None where the GPU itself can't be reached."""

    values: Values | None
    faults: dict[str, str] = field(default_factory=dict)  # field (or "gpu") -> why it has no value


class Source(Protocol):
    """Where readings come from. Any call of it may take for ever: who asks must be able to do without."""

    kind: str  # nvml, rocm, xpu or host
    about: str  # driver and version
    fields: tuple[str, ...]

    @property
    def gpus(self) -> list[Gpu]:
        """The visible ones. One that was lost from the start says what it is when it is back."""

    def read(self, position: int) -> Reading:
        """What the GPU at this position of `gpus` says now. What can't be read is a fault in it, never raised."""
