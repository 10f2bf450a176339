"""The training process's side of the monitor: marks, windows, news, and an end that waits for nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nvml.simulated import Simulated, simulated

from lib import gpu
from lib.files import read_lines
from lib.gpu import store
from lib.gpu.trainer import Monitor, NullMonitor, Window, news_of
from lib.gpu.work import Work
from lib.options import ROOT

CPU = torch.device("cpu")
ON = gpu.Settings(gpu_monitor=True, gpu_monitor_interval_s=0.1)
JOB: dict[str, Any] = {"device": CPU, "unit": "tokens", "rank": 0, "local_rank": 0, "world": 1}

# Four processes under torchrun; process 2 has `factor` times the work. `busy` computes, else it sleeps.
TRAIN = """
import os, sys, time
from pathlib import Path
import torch, torch.distributed as group
from torch import nn
from lib import gpu

factor, seconds, busy, run = float(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "busy", Path(sys.argv[4])
torch.set_num_threads(1)
rank = int(os.environ["RANK"])
group.init_process_group("gloo")
model = nn.parallel.DistributedDataParallel(nn.Linear(8, 8))
job = {"device": torch.device("cpu"), "unit": "tokens", "rank": rank, "local_rank": rank, "world": 4}
with gpu.monitor(run, gpu.Settings(True, 0.1), **job) as monitor:
    began, step = time.monotonic(), 0
    while True:
        step += 1
        monitor.begins()
        work_s = 0.01 * (factor if rank == 2 else 1)
        until = time.thread_time() + work_s
        while busy and time.thread_time() < until:
            pass
        time.sleep(0 if busy else work_s)
        loss = model(torch.ones(4, 8)).sum()
        monitor.last_backward(loss)
        loss.backward()
        if step % 10 == 0:
            over = torch.tensor(float(time.monotonic() - began > seconds))
            group.all_reduce(over)
            monitor.mark(step, 1000)
            if over:
                break
group.barrier()
group.destroy_process_group()
"""


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulated]:
    with simulated(tmp_path, "util=90;memory=18000") as made:
        for name in ("LD_LIBRARY_PATH", "SIMULATED_NVML"):
            monkeypatch.setenv(name, made.env[name])
        yield made


def windows_until(monitor: NullMonitor, enough: Callable[[list[Window]], bool], *, first: int = 1) -> list[Window]:
    """Mark a step of 100 tokens each 0.05 s, until that is enough."""
    found: list[Window] = []
    step, until = first, time.monotonic() + 60
    while not enough(found):
        assert time.monotonic() < until
        monitor.begins()
        monitor.mark(step, 100)
        found += monitor.windows()
        time.sleep(0.05)
        step += 1
    return found


def sampler_of(monitor: NullMonitor) -> subprocess.Popen[bytes]:
    assert isinstance(monitor, Monitor)
    assert monitor._process
    return monitor._process


def test_a_monitor_that_is_off_does_nothing(tmp_path: Path) -> None:
    with gpu.monitor(tmp_path, gpu.Settings(gpu_monitor=False), **JOB) as monitor:
        windows_until(monitor, lambda found: True)
        assert type(monitor) is NullMonitor
        assert list(monitor.windows()) == list(monitor.news()) == []
    assert list(tmp_path.iterdir()) == []


def test_windows_come_with_the_step_that_was_done_each_once(tmp_path: Path, gpus: Simulated) -> None:
    with gpu.monitor(tmp_path, ON, **JOB) as monitor:
        first = windows_until(monitor, lambda found: len(found) == 2)
        monitor.close()
        last = list(monitor.windows())
        assert list(monitor.windows()) == []
    found = [*first, *last]
    assert [window.step for window in found] == sorted(window.step for window in found)
    assert len({window.time for window in found}) == len(found) == len(store.windows(tmp_path))
    assert found[0].values["gpu_load_balance_quality"] == "Excellent"
    assert found[1].values["gpu_samples"] == pytest.approx(10, abs=6)
    with gpu.monitor(tmp_path, ON, **JOB) as again:  # another attempt does not log them again, and its energy goes on
        (after, *_) = windows_until(again, lambda found: len(found) == 1, first=1000)
    assert after.step >= 1000
    before = found[-1].values["gpu_energy_total_kwh"]
    now = after.values["gpu_energy_total_kwh"]
    assert isinstance(before, float)
    assert isinstance(now, float)
    assert now > before


def test_a_training_that_is_over_at_once_has_a_sample_and_a_window_at_its_last_step(
    tmp_path: Path, gpus: Simulated
) -> None:
    with gpu.monitor(tmp_path, ON, **JOB) as monitor:
        for step in (1, 2):
            monitor.begins()
            monitor.mark(step, 100)
    (window,) = monitor.windows()
    assert window.step == 2
    assert window.values["gpu_samples"]
    assert window.values["gpu_average_utilization"] == 90


def test_what_an_earlier_attempt_has_left_is_not_called_stale(tmp_path: Path, gpus: Simulated) -> None:
    left = tmp_path / "gpu" / "rank-0" / store.SAMPLES
    left.parent.mkdir(parents=True)
    left.touch()
    os.utime(left, (1.0, 1.0))
    with gpu.monitor(tmp_path, ON, **JOB) as monitor:
        sampler_of(monitor).send_signal(signal.SIGSTOP)  # before it has put that aside
        assert list(monitor.news()) == []
        sampler_of(monitor).send_signal(signal.SIGCONT)


def test_a_sampler_that_was_killed_is_told_and_replaced(tmp_path: Path, gpus: Simulated) -> None:
    with gpu.monitor(tmp_path, ON, **JOB) as monitor:
        windows_until(monitor, lambda found: len(found) == 1)
        assert "gpu: 4 × NVIDIA A10G (driver 550.163.01)" in list(monitor.news())
        sampler_of(monitor).send_signal(signal.SIGKILL)
        sampler_of(monitor).wait()
        time.sleep(1.0)  # news is looked for once a second
        assert next(monitor.news()) == "warning: the GPU sampler was killed by SIGKILL; another one takes over"
        # the one that died may have left another window
        windows_until(monitor, lambda found: any(window.step >= 500 for window in found), first=500)


def test_training_waits_for_no_sampler_that_stands_still(tmp_path: Path, gpus: Simulated) -> None:
    with gpu.monitor(tmp_path, ON, **JOB) as monitor:
        windows_until(monitor, lambda found: len(found) == 1)
        process = sampler_of(monitor)
        process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        for step in range(1000, 2000):
            monitor.begins()
            monitor.mark(step, 100)
            list(monitor.windows())
        assert time.monotonic() - began < 1  # a thousand logs
        began = time.monotonic()
        monitor.close()
        assert time.monotonic() - began < 1.5
    assert process.returncode == -signal.SIGKILL


def test_what_happened_is_told_in_a_line() -> None:
    lost = {"event": "lost", "field": "it", "why": "GPU is lost", "gpus": [2]}
    assert news_of(lost) == "warning: gpu 2 lost: GPU is lost; its values and the totals are null until it is back"
    assert news_of({"event": "back", "field": "it", "gpus": [2]}, host="b") == "gpu 2 of b: it is back"
    lacks = {"event": "lacks", "field": "energy", "why": "Not Supported", "gpus": [0, 1]}
    assert news_of(lacks) == "gpu 0, 1 lacks energy: Not Supported"
    assert news_of({"event": "found", "what": "4 × A10G"}, host="b") == "gpu: 4 × A10G on b"
    assert news_of({"event": "alarm", "why": "stuck"}) == "warning: gpu: stuck"


def test_work_ends_with_the_backward_pass() -> None:
    work = Work(CPU)
    weight = torch.ones(3, requires_grad=True)
    for _ in range(2):
        work.begins()
        time.sleep(0.05)
        loss = (weight * 2).sum()
        work.last_backward(loss)
        loss.backward()  # type: ignore[no-untyped-call]
        time.sleep(0.2)
    assert 0.1 <= work.seconds() < 0.2
    assert work.seconds() == 0


def trained(folder: Path, gpus: Simulated, *, factor: float, seconds: float, busy: bool) -> list[dict[str, Any]]:
    """The windows of four processes on four GPUs."""
    script = folder / "four.py"
    script.write_text(TRAIN)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
    words = [str(script), str(factor), str(seconds), "busy" if busy else "asleep", str(folder)]
    env = {**gpus.env, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*launch, *words], env=env, check=True, capture_output=True, timeout=150)
    return [window["values"] for window in store.windows(folder)]


def test_a_straggler_among_four_processes_is_named(tmp_path: Path, gpus: Simulated) -> None:
    gpus.set("util=99;power=75;power.2=250")  # the others wait, spinning
    first, *_, last = trained(tmp_path, gpus, factor=3, seconds=3, busy=False)
    for values in (first, last):
        assert values["gpu_load_balance_quality"] == "Excellent"
        assert values["gpu_load_balance_suspect"] == 1
    assert last["gpu_load_balance_cv_compute_time"] > 20
    assert last["gpu_slowest_rank"] == 2
    (alarm,) = [event for event in read_lines(tmp_path / "gpu/rank-0/events.jsonl") if event["event"] == "alarm"]
    assert "rank 2 is the slowest" in alarm["why"]


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "quality"), [(1, "Excellent"), (3, "Poor")])
def test_the_load_of_four_real_processes_shows_who_has_more_work(
    tmp_path: Path, gpus: Simulated, factor: float, quality: str
) -> None:
    share = min(1.0, (os.cpu_count() or 1) / 4)
    gpus.set(f"follow=four.py;memory=18000;core={share}")
    _, *middle, _ = trained(tmp_path, gpus, factor=factor, seconds=12, busy=True)
    cvs = [values["gpu_load_balance_cv"] for values in middle if values["gpu_load_balance_cv"] is not None]
    works = [values["gpu_load_balance_cv_compute_time"] for values in middle]
    assert {values["gpu_load_balance_cv_memory"] for values in middle} == {0}
    if quality == "Poor":
        assert min(cvs) > 20
        assert min(works) > 20
        assert {values["gpu_slowest_rank"] for values in middle} == {2}
    else:
        assert sum(cvs) / len(cvs) < 10  # four processes on fewer cores: the kernel's turns are in it
        assert sum(works) / len(works) < 20
