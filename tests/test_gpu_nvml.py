"""What NVML says, read by pynvml from the simulated library; and what there is in its place elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from nvml.simulated import Simulated, simulated

from lib.gpu.nvml import Nvml, visible
from lib.gpu.other import Host, Torch
from lib.gpu.readings import FIELDS, Absent, Gpu, Reading

UUIDS = ["GPU-aaaa1", "GPU-aaab2", "GPU-cccc3", "GPU-dddd4"]


@contextmanager
def here(folder: Path, scenario: str) -> Iterator[Simulated]:
    with simulated(folder, scenario) as gpus, gpus.here():
        yield gpus


def by_name(reading: Reading) -> dict[str, float | None]:
    assert reading.values is not None
    return dict(zip(FIELDS, reading.values, strict=True))


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("-1", []),
        ("2,0", [2, 0]),
        (" 1 , 3", [1, 3]),
        ("0,-1,2", [0]),
        ("1,7,2", [1]),
        ("GPU-cccc3,0", [2, 0]),
        ("GPU-c", [2]),
        ("GPU-aaa", []),  # two of that beginning
        ("1,1", [1]),
    ],
)
def test_what_cuda_shows_is_what_is_sampled(text: str | None, positions: list[int]) -> None:
    assert visible(text, UUIDS) == positions


def test_a_reading_has_each_value_in_its_unit(tmp_path: Path) -> None:
    scenario = "util=90;memory=18000;temperature=66;power=244.5;sm_clock=1560;memory_clock=5666;throttle=4;energy=1000"
    with here(tmp_path, f"{scenario};clock=0"):
        source = Nvml(None)
        assert [gpu.name for gpu in source.gpus] == ["NVIDIA A10G"] * 4
        assert source.gpus[3].memory_total_mib == 23028
        assert source.gpus[3].memory_reserved_mib == 513
        assert source.gpus[3].power_limit_watts == 300
        reading = source.read(0)
    expected = {
        "utilization": 90, "memory_used": 18000,  # version 1 of the call would say 18513
        "temperature": 66, "power": 244.5, "sm_clock": 1560,
        "memory_clock": 5666, "throttle": 4, "sm_active": None, "tensor_active": None,
    }  # fmt: skip
    found = by_name(reading)
    energy = found.pop("energy")
    assert energy is not None and energy >= 1000, "in this process the counter goes on from test to test"
    assert found == expected
    assert not reading.faults


def test_an_older_drivers_names_of_the_calls_will_do(tmp_path: Path) -> None:
    newer = ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetMemoryInfo_v2")
    refused = ";".join(f"error.{name}=13" for name in newer)
    with here(tmp_path, f"temperature=66;throttle=64;memory=1000;{refused}"):
        reading = Nvml(None).read(1)
    assert by_name(reading)["temperature"] == 66
    assert by_name(reading)["throttle"] == 64
    assert by_name(reading)["memory_used"] == 1513  # all that such a driver says


def test_a_value_that_the_gpu_lacks_is_null_with_the_reason_and_the_others_stay(tmp_path: Path) -> None:
    with here(tmp_path, "util=50;error.nvmlDeviceGetTotalEnergyConsumption=3") as gpus:
        source = Nvml(None)
        first, second = source.read(0), source.read(0)
    assert by_name(second)["energy"] is None
    assert by_name(second)["utilization"] == 50
    assert first.faults == second.faults == {"energy": "Not Supported"}
    assert gpus.calls()["nvmlDeviceGetTotalEnergyConsumption"] == 1  # it is not asked again


def test_a_transient_error_ends_nothing(tmp_path: Path) -> None:
    with here(tmp_path, "util=50;error.nvmlDeviceGetUtilizationRates.0=999") as gpus:
        source = Nvml(None)
        during = source.read(0)
        gpus.set("util=50")
        after = source.read(0)
    assert by_name(during)["utilization"] is None
    assert during.faults == {"utilization": "Unknown Error"}
    assert by_name(during)["power"] is not None
    assert by_name(after)["utilization"] == 50
    assert not after.faults


def test_a_lost_gpu_is_told_and_read_again_when_it_is_back(tmp_path: Path) -> None:
    with here(tmp_path, "util=50;lost.2=0-") as gpus:
        source = Nvml(None)
        during = [source.read(position) for position in range(4)]
        gpus.set("util=50")
        after = source.read(2)
    assert [reading.values is None for reading in during] == [False, False, True, False]
    assert during[2].faults == {"gpu": "GPU is lost"}
    assert by_name(after)["utilization"] == 50


def test_a_gpu_that_was_lost_from_the_start_says_what_it_is_when_it_is_back(tmp_path: Path) -> None:
    with here(tmp_path, "util=50;lost.2=0-") as gpus:
        source = Nvml(None)
        source.read(2)
        assert source.gpus[2] == Gpu(2, "", "NVIDIA GPU")
        gpus.set("util=50")
        source.read(2)
    assert source.gpus[2] == replace(source.gpus[1], index=2, uuid=source.gpus[2].uuid)
    assert source.gpus[2].uuid.startswith("GPU-") and source.gpus[2].uuid != source.gpus[1].uuid


def test_newer_gpus_tell_how_busy_their_multiprocessors_and_tensor_cores_are(tmp_path: Path) -> None:
    with here(tmp_path, "gpm=1;util=100;sm=80;tensor=35"):
        source = Nvml(None)
        first = source.read(0)
        time.sleep(0.15)
        second = source.read(0)
    assert by_name(first)["sm_active"] is None  # it takes two samples
    assert by_name(second)["sm_active"] == pytest.approx(80, abs=1)
    assert by_name(second)["tensor_active"] == pytest.approx(35, abs=1)


def test_no_driver_a_mig_instance_and_no_visible_gpu_are_one_line_each(tmp_path: Path) -> None:
    with here(tmp_path, ""):
        with pytest.raises(Absent, match=r"CUDA_VISIBLE_DEVICES=-1 hides all of 4 GPUs"):
            Nvml("-1")
        with pytest.raises(Absent, match=r"CUDA_VISIBLE_DEVICES=MIG-1 is a MIG instance, and NVML measures whole"):
            Nvml("MIG-1")
        assert [gpu.index for gpu in Nvml("3,1").gpus] == [3, 1]
    with simulated(tmp_path / "none", "gpus=0") as gpus, gpus.here(), pytest.raises(Absent, match="no NVIDIA GPU"):
        Nvml(None)


def devices(count: int) -> Sequence[dict[str, object]]:
    return [{"uuid": f"GPU-{index}", "name": "MI300X", "memory_total_mib": 196592.0} for index in range(count)]


def test_other_makers_gpus_are_read_through_pytorchs_counters() -> None:
    counters = SimpleNamespace(
        utilization=lambda index: 40 + index, device_memory_used=lambda index: 3 << 30, temperature=lambda index: 55,
        power_draw=lambda index: 310,
    )  # fmt: skip
    source = Torch("rocm", devices(2), counters)
    reading = source.read(1)
    assert source.gpus[1].memory_total_mib == 196592
    assert by_name(reading) == {
        **dict.fromkeys(FIELDS), "utilization": 41, "memory_used": 3072, "temperature": 55, "power": 310,
    }  # fmt: skip


def test_a_counter_of_pytorchs_that_raises_is_a_fault_of_that_value() -> None:
    def refuses(index: int) -> float:
        raise RuntimeError("Try running with elevated privileges\nand so on")

    reading = Torch("xpu", devices(1), SimpleNamespace(utilization=refuses, temperature=lambda index: 50.5)).read(0)
    assert reading.faults == {"utilization": "RuntimeError: Try running with elevated privileges"}
    assert by_name(reading)["temperature"] == 50.5


def test_without_any_gpu_the_host_says_what_it_does() -> None:
    host = Host()
    cpu, memory = host.read(0).values or (None, None)
    total = psutil.virtual_memory().total / (1 << 20)
    assert host.gpus[0].memory_total_mib == total
    assert cpu is not None
    assert memory is not None
    assert 0 <= cpu <= 100
    assert 0 < memory < total


def test_the_first_load_of_a_processor_is_over_long_enough_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    monkeypatch.setattr(psutil, "cpu_percent", lambda: asked.append(time.monotonic()) or 50.0)
    Host().read(0)
    began, ended = asked
    assert ended - began >= 0.1  # what psutil asks for
