"""The sampler as a process, among simulated GPUs: what it writes, what it survives, and that it always ends."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from nvml.simulated import simulated

from lib.files import append_line, read_lines
from lib.gpu import store
from lib.options import ROOT

INTERVAL_S = 0.05
TOLD = {
    "rank": 0, "world": 1, "unit": "token", "interval_s": INTERVAL_S, "gpu_price_per_hour": 0.0,
    "electricity_price_per_kwh": 0.0, "kind": "nvml", "devices": [],
}  # fmt: skip
NO_DRIVER = {"LD_LIBRARY_PATH": ""}


class Sampler:
    """The sampler of process `rank` of the run in `folder`, and that process's marks."""

    def __init__(self, folder: Path, env: Mapping[str, str], **told: Any) -> None:
        self.rank = int(told.get("rank", 0))
        self.folder = folder / store.FOLDER
        self.own = self.folder / f"rank-{self.rank}"
        self._marks = self.folder / store.MARKS / f"rank-{self.rank}.jsonl"
        self._marks.parent.mkdir(parents=True, exist_ok=True)
        append_line(self._marks, {"uuid": "", "host": "a"})
        self._step = 0
        known = {"run": str(folder), "began": time.time(), **TOLD, **told}
        command = [sys.executable, "-m", "lib.gpu.sampler", json.dumps(known)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env={**env, "OMP_NUM_THREADS": "1"}, stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def mark(self, *, steps: int = 10, compute_s: float = 1.0) -> None:
        self._step += steps
        entry = {"step": self._step, "steps": steps, "units": 100 * steps, "compute_s": compute_s}
        append_line(self._marks, entry)

    def rows(self) -> list[store.Row]:
        return [row for _, row in store.samples(self.own)]

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in read_lines(self.own / store.EVENTS) if event["event"] == kind]

    def windows(self) -> list[dict[str, Any]]:
        return [window["values"] for window in read_lines(self.folder / store.WINDOWS)]

    def wait(self, samples: int) -> None:
        """Until there are `samples` more of them."""
        enough = len(self.rows()) + samples
        wait_for(lambda: len(self.rows()) >= enough)

    def window(self, samples: int = 12) -> dict[str, Any]:
        """The values of the next window, after `samples` more and a mark."""
        before = len(self.windows())
        self.wait(samples)
        self.mark()
        wait_for(lambda: len(self.windows()) > before)
        return self.windows()[before]

    def end(self) -> float:
        """Let it go; the seconds that it took, and what it had to say is nothing."""
        assert self.process.stdin
        assert self.process.stderr
        began = time.monotonic()
        self.process.stdin.close()
        assert self.process.wait(10) == 0
        took_s = time.monotonic() - began
        assert self.process.stderr.read() == b""
        return took_s


def wait_for(condition: Any, patience_s: float = 20.0) -> None:
    until = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def ended(pid: int) -> bool:
    """Whether the process is gone, or only waits for its new parent to take notice."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def sampling(folder: Path, env: Mapping[str, str], **told: Any) -> Iterator[Sampler]:
    sampler = Sampler(folder, env, **told)
    try:
        yield sampler
    finally:
        sampler.process.kill()
        sampler.process.wait()
        for pipe in (sampler.process.stdin, sampler.process.stderr):
            assert pipe
            pipe.close()


def test_the_sampler_is_a_small_process_without_torch() -> None:
    code = (
        "import sys, lib.gpu.sampler, lib.gpu.nvml, lib.gpu.other; sys.exit(bool({'torch', 'numpy'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_it_samples_before_the_first_mark_and_says_what(tmp_path: Path) -> None:
    with simulated(tmp_path, "util=90") as gpus, sampling(tmp_path, gpus.env, interval_s=10.0) as sampler:
        wait_for(sampler.rows)
        ((of, row),) = store.samples(sampler.own)
        assert len(row.gpus) == 4
        assert of.kind == "nvml"
        assert sampler.events("found")[0]["what"] == "4 × NVIDIA A10G (driver 550.163.01)"
        sampler.end()
    assert sampler.windows()[0]["gpu_samples"] == 1  # the last one, however short


def test_a_straggler_is_poor_in_utilization_and_excellent_in_memory(tmp_path: Path) -> None:
    with simulated(tmp_path, "util=90;util.2=30;memory=18000") as gpus, sampling(tmp_path, gpus.env) as sampler:
        values = sampler.window()
        sampler.end()
    assert values["gpu_load_balance_cv"] == pytest.approx(34.641, abs=0.1)
    assert values["gpu_load_balance_quality"] == "Poor"
    assert values["gpu_load_balance_cv_memory"] == 0
    assert values["gpu_load_balance_cv_power"] > 20


def test_a_gpu_that_is_lost_for_a_while_is_null_and_told_once(tmp_path: Path) -> None:
    valid, totals = [], []
    with simulated(tmp_path, "util=90") as gpus, sampling(tmp_path, gpus.env) as sampler:
        for scenario in ("util=90", "util=90;lost.2=0-", "util=90"):
            gpus.set(scenario)
            values = sampler.window()
            valid.append(values["gpu_count_valid"])
            totals.append(values["gpu_average_utilization"])
        sampler.end()
        assert [event["why"] for event in sampler.events("lost")] == ["GPU is lost"]
        assert [event["gpus"] for event in sampler.events("back")] == [[2]]
    assert valid[:2] == [4, 3]
    assert totals[:2] == [90, None]
    assert {90 if row.gpus[2] is None else row.gpus[2][0] for row in sampler.rows()} == {90}
    assert sampler.rows()[-1].gpus[2] is not None


def test_a_gpu_that_was_lost_from_the_start_has_its_name_and_its_memory_when_it_is_back(tmp_path: Path) -> None:
    scenario = "util=90;memory=18000"
    with simulated(tmp_path, f"{scenario};lost.2=0-") as gpus, sampling(tmp_path, gpus.env) as sampler:
        assert sampler.window()["gpu_count_valid"] == 3
        gpus.set(scenario)
        wait_for(lambda: sampler.events("back"))
        sampler.window()  # it was lost in a part of this one
        values = sampler.window()
        sampler.end()
    assert (values["gpu_count_valid"], values["gpu_total_memory_percent"]) == (4, pytest.approx(78.1657))
    headers = list(dict.fromkeys(of for of, _ in store.samples(sampler.own)))
    assert [of.gpus[2].name for of in headers] == ["NVIDIA GPU", "NVIDIA A10G"]
    assert len({of.time for of in headers}) == 1, "it is still the same attempt"


def test_a_hung_call_is_stale_data_and_delays_no_exit(tmp_path: Path) -> None:
    with simulated(tmp_path, "util=90") as gpus, sampling(tmp_path, gpus.env) as sampler:
        sampler.wait(5)
        gpus.set("util=90;hang.nvmlDeviceGetPowerUsage.1=0-")
        wait_for(lambda: sampler.events("lost"))
        sampler.wait(12)
        assert [values is None for values in sampler.rows()[-1].gpus] == [False, True, False, False]
        assert sampler.events("lost")[0]["why"] == "the driver does not answer"
        gpus.set("util=90")
        wait_for(lambda: sampler.events("back"))
        sampler.wait(3)
        assert None not in sampler.rows()[-1].gpus
        gpus.set("util=90;hang.any=0-")
        time.sleep(0.3)
        assert sampler.end() < 1.0


def test_a_driver_that_hangs_at_once_is_told_and_left(tmp_path: Path) -> None:
    with simulated(tmp_path, "hang.nvmlInit=0-") as gpus, sampling(tmp_path, gpus.env) as sampler:
        wait_for(lambda: sampler.events("alarm"))
        assert sampler.end() < 1.0
    assert [event["why"] for event in sampler.events("alarm")] == ["the driver does not answer: no samples yet"]


def test_without_a_driver_the_host_is_sampled(tmp_path: Path) -> None:
    with sampling(tmp_path, {**os.environ, **NO_DRIVER}) as sampler:
        values = sampler.window()
        sampler.end()
    assert "CPU and host memory are sampled instead" in sampler.events("found")[0]["what"]
    assert 0 < values["host_memory_percent"] < 100
    assert 0 <= values["host_cpu_utilization"] <= 100


def test_cuda_visible_devices_decides_which_gpus_are_sampled(tmp_path: Path) -> None:
    with simulated(tmp_path, "util=90") as gpus:
        env = {**gpus.env, "CUDA_VISIBLE_DEVICES": "3,1"}
        with sampling(tmp_path, env) as sampler:
            sampler.wait(1)
            ((of, row), *_) = store.samples(sampler.own)
            sampler.end()
    assert [gpu.index for gpu in of.gpus] == [3, 1]
    assert len(row.gpus) == 2


def test_energy_is_the_integral_of_a_power_that_samples_miss(tmp_path: Path) -> None:
    with simulated(tmp_path, "power=square:100,300,0.1,0.5") as gpus, sampling(tmp_path, gpus.env) as sampler:
        values = sampler.window(60)
        sampler.end()
    rows = [row for row in sampler.rows() if row.time <= sampler.rows()[0].time + values["gpu_window_s"]]
    seconds = rows[values["gpu_samples"] - 1].time - rows[0].time
    assert values["gpu_energy_source"] == "counter"
    assert values["gpu_energy_joules"] == pytest.approx(4 * 200 * seconds, rel=0.02)
    assert values["gpu_joules_per_step"] == pytest.approx(values["gpu_energy_joules"] / 10)


def test_two_nodes_are_one_job_and_their_gpus_are_numbered_through(tmp_path: Path) -> None:
    one, two = simulated(tmp_path / "a", "gpus=2;util=90"), simulated(tmp_path / "b", "gpus=2;util=30")
    with one as first, two as second, sampling(tmp_path, second.env, rank=2, world=4) as other:
        other.wait(1)
        with sampling(tmp_path, first.env, rank=0, world=4) as sampler:
            sampler.wait(15)
            other.mark()
            sampler.mark()
            wait_for(sampler.windows)
            sampler.end()
        other.end()
    values = sampler.windows()[0]
    assert [values[f"gpu_{index}_utilization"] for index in range(4)] == [90, 90, 30, 30]
    assert values["gpu_count_valid"] == 4
    assert values["gpu_load_balance_cv"] == pytest.approx(50)


def test_it_ends_soon_after_a_trainer_that_is_killed_and_whose_child_lives_on(tmp_path: Path) -> None:
    """The child is as a worker of a DataLoader: it has the trainer's end of the pipe, too."""
    trainer = """
import json, os, subprocess, sys, time
sampler = subprocess.Popen([sys.executable, "-m", "lib.gpu.sampler", sys.argv[1]], stdin=subprocess.PIPE)
child = os.fork() or time.sleep(60)
print(sampler.pid, child, flush=True)
time.sleep(60)
"""
    told = json.dumps({"run": str(tmp_path), "began": 0.0, **TOLD, "interval_s": 10.0})
    with simulated(tmp_path) as gpus:
        command = [sys.executable, "-c", trainer, told]
        with subprocess.Popen(command, cwd=ROOT, env=gpus.env, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            sampler, child = map(int, process.stdout.readline().split())
            wait_for(lambda: (tmp_path / "gpu" / "rank-0" / store.SAMPLES).exists())
            process.send_signal(signal.SIGKILL)
            began = time.monotonic()
            wait_for(lambda: ended(sampler))
            took_s = time.monotonic() - began
            os.kill(child, signal.SIGKILL)
    assert took_s < 2


def test_a_full_disk_costs_the_samples_and_one_line(tmp_path: Path) -> None:
    with simulated(tmp_path, "util=90") as gpus, sampling(tmp_path, gpus.env) as sampler:
        wait_for(sampler.rows)
        resource.prlimit(sampler.process.pid, resource.RLIMIT_FSIZE, (4096, 4096))
        wait_for(lambda: sampler.events("alarm"))
        before = len(sampler.rows())
        time.sleep(0.3)
        sampler.end()
    assert [event["why"] for event in sampler.events("alarm")] == [
        "samples can't be written (File too large): there is a gap in them"
    ]
    assert len(sampler.rows()) == before


def test_it_costs_little_of_a_processor_and_little_memory(tmp_path: Path) -> None:
    with simulated(tmp_path, "util=90") as gpus, sampling(tmp_path, gpus.env, interval_s=0.1) as sampler:
        sampler.wait(3)
        process = psutil.Process(sampler.process.pid)
        before, began = sum(process.cpu_times()[:2]), time.monotonic()
        time.sleep(3)
        share = (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began)
        assert share < 0.05  # of a core, at 10 Hz
        assert process.memory_info().rss < 60 << 20
        sampler.end()
