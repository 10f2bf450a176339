"""GPU monitoring: what every GPU did, what it cost, and whether the load was balanced. docs/gpu-monitoring.md explains.

`readings` is what a source of samples offers, `nvml` and `other` are the sources; `sampler` is the process that reads
them, `windows` and `balance` what it makes of them, `store` the files; `trainer` and `work` are the training process's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the sampler imports this package, and must not load torch
    import torch

    from lib.gpu.trainer import NullMonitor


@dataclass(frozen=True)
class Settings:
    """The symbols of the menu "GPU monitoring"; those that are unset while it is off have a default here."""

    gpu_monitor: bool
    gpu_monitor_interval_s: float = 1.0
    gpu_price_per_hour: float = 0.0
    electricity_price_per_kwh: float = 0.0


def monitor(
    run: Path, settings: Settings, *, device: torch.device, unit: str, rank: int, local_rank: int, world: int
) -> NullMonitor:
    """What process `rank` of the job, whose run folder is `run`, marks its steps on; it does nothing when it is off.

    `unit` is what the job counts, "tokens" or "images". All processes call this before the first of them marks a step.
    """
    from lib.gpu.trainer import Monitor, NullMonitor

    if not settings.gpu_monitor:
        return NullMonitor()
    return Monitor(run, settings, device=device, unit=unit, rank=rank, local_rank=local_rank, world=world)
