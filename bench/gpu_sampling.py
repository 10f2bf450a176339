"""What GPU monitoring costs, on four simulated GPUs (tests/nvml/README.md): a sample, the sampler, the training.

A sample: ours, Trackio's collector, 16 plain calls of pynvml (utilization, memory, temperature, power), and spawning
and parsing an `nvidia-smi` that only prints four lines. All is processor time, children's too, and they take turns. The
library answers at once; a driver takes longer, a real `nvidia-smi` much longer. Linux, and a C compiler as `cc`.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[0] = str(Path(__file__).resolve().parent.parent)

if TYPE_CHECKING:
    from torch import nn

    from lib.gpu.trainer import NullMonitor

GPUS, SCENARIO = 4, "util=sine:70,25,60; memory=18000"
SAMPLES = 50  # in a turn
STEPS, TURNS = 50, 40  # of the training: in a turn, turns in a round
ROUNDS = 9
RATES_HZ = (0, 1, 10)
LOG_INTERVAL = 10
OURS = "kilter"


def main() -> int:
    if len(sys.argv) > 1:
        a_sample(Path(sys.argv[1]))
        a_training(Path(sys.argv[1]))
        return 0
    from tests.nvml.simulated import simulated

    with tempfile.TemporaryDirectory() as scratch, simulated(Path(scratch), SCENARIO) as gpus:
        stand_in = Path(scratch, "nvidia-smi")
        stand_in.write_text("#!/bin/sh\n" + "echo '90, 18000, 66, 244'\n" * GPUS)
        stand_in.chmod(0o755)
        return subprocess.run([sys.executable, __file__, scratch], env=gpus.env).returncode


def a_sample(scratch: Path) -> None:
    """What one look at all GPUs takes."""
    import pynvml
    import trackio.gpu

    from lib.gpu.nvml import Nvml

    source = Nvml(None)
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(GPUS)]

    def plain() -> None:
        for handle in handles:
            pynvml.nvmlDeviceGetUtilizationRates(handle)
            pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
            pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
            pynvml.nvmlDeviceGetPowerUsage(handle)

    def spawned() -> list[list[float]]:
        query = ["--query-gpu=utilization.gpu,memory.used,temperature.gpu,power.draw", "--format=csv,noheader,nounits"]
        told = subprocess.run([scratch / "nvidia-smi", *query], capture_output=True, text=True, check=True).stdout
        return [[float(word) for word in line.split(",")] for line in told.splitlines()]

    ways: dict[str, Callable[[], object]] = {
        OURS: lambda: [source.read(position) for position in range(GPUS)],
        "pynvml, 16 calls": plain,
        "trackio": trackio.gpu.collect_gpu_metrics,
        "nvidia-smi, spawned": spawned,
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(ROUNDS + 1):
        for name in ways if turn % 2 else reversed(ways):
            began = with_children_s()
            for _ in range(SAMPLES):
                ways[name]()
            taken[name] += [(with_children_s() - began) / SAMPLES * 1e6] if turn else []  # the first turn warms up
    print(f"{f'a sample of {GPUS} GPUs':<32}{'processor time [us]':>26}{'/ kilter':>26}")
    for name, times in taken.items():
        ratios = [mine / ours for mine, ours in zip(times, taken[OURS], strict=True)]
        print(f"{name:<32}{spread(times, '.0f', ''):>26}{spread(ratios, '.2f', ' x'):>26}")


def with_children_s() -> float:
    """Processor time of this process, and of those that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def a_training(scratch: Path) -> None:
    """A small network's steps with and without a monitor, as in a job of several processes, which also times them."""
    import torch

    torch.set_num_threads(1)
    with ExitStack() as last:
        monitored = {rate: started(scratch / str(rate), rate, last) for rate in RATES_HZ}
        network = torch.nn.Sequential(torch.nn.Linear(128, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
        steps: dict[int, list[float]] = {rate: [] for rate in RATES_HZ}  # [us]
        shares: dict[int, list[float]] = {rate: [] for rate in RATES_HZ}  # [%]
        for number in range(ROUNDS):
            print(f"round {number + 1} of {ROUNDS}", file=sys.stderr)
            began_s = time.monotonic()
            used_s = {rate: processor_s(pid) for rate, (_, pid) in monitored.items()}
            for rate, taken_s in a_round(network, {rate: monitor for rate, (monitor, _) in monitored.items()}).items():
                steps[rate].append(taken_s * 1e6 / TURNS / STEPS)
            for rate, (_, pid) in monitored.items():
                shares[rate].append(100 * (processor_s(pid) - used_s[rate]) / (time.monotonic() - began_s))
    print(f"{'training':<16}{'step [us]':>20}{'more [us]':>18}{'/ not monitored':>24}{'sampler [% of a core]':>24}")
    for rate, taken in steps.items():
        pairs = list(zip(taken, steps[0], strict=True))
        more = spread([mine - without for mine, without in pairs], ".0f", "")
        ratio = spread([mine / without for mine, without in pairs], ".3f", " x")
        share = spread(shares[rate], ".2f", "") if rate else ""
        name = f"{rate} Hz" if rate else "not monitored"
        print(f"{name:<16}{spread(taken, '.0f', ''):>20}{more:>18}{ratio:>24}{share:>24}")


def started(run: Path, rate_hz: int, last: ExitStack) -> tuple[NullMonitor, int]:
    """A monitor, and the process of its sampler, which has begun; without a rate, one that does nothing."""
    import psutil
    import torch

    from lib import gpu

    before = set(psutil.Process().children())
    settings = gpu.Settings(bool(rate_hz), 1 / max(1, rate_hz))
    device = torch.device("cpu")
    monitor = gpu.monitor(run, settings, device=device, unit="images", rank=0, local_rank=0, world=GPUS)
    last.enter_context(monitor)
    while rate_hz and not any(run.glob("**/samples.jsonl")):
        time.sleep(0.1)
    return monitor, next((child.pid for child in set(psutil.Process().children()) - before), os.getpid())


def a_round(network: nn.Module, monitors: dict[int, NullMonitor]) -> dict[int, float]:
    """Seconds of processor time that the steps with each monitor take, in turns."""
    import torch

    batch = torch.randn(128, 128)  # a step of about a millisecond, as in a small model's training
    taken_s = dict.fromkeys(monitors, 0.0)
    for turn in range(TURNS):
        for rate, monitor in list(monitors.items())[:: 1 if turn % 2 else -1]:
            began = time.process_time()
            for step in range(1, STEPS + 1):
                monitor.begins()
                loss = network(batch).square().mean()
                monitor.last_backward(loss)
                loss.backward()
                if step % LOG_INTERVAL == 0:
                    monitor.mark(step, LOG_INTERVAL * len(batch))
                    list(monitor.windows())
                    list(monitor.news())
            taken_s[rate] += time.process_time() - began
    return taken_s


def processor_s(pid: int) -> float:
    """Processor time of the process `pid`: Linux has a clock of it, by this number (clock_getcpuclockid)."""
    return time.clock_gettime(~pid << 3 | 2)


def spread(values: list[float], form: str, unit: str) -> str:
    low, middle, high = (f"{value:{form}}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle}{unit} [{low}-{high}]"


if __name__ == "__main__":
    sys.exit(main())
