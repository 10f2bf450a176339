"""The simulated NVML, read by the real pynvml: what it shows, how it fails, and that its energy is exact."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pynvml
import pytest
from nvml import simulated as library
from nvml.simulated import Simulated, simulated

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")

MIB = 2**20
SPIN = "while True: pass"


@pytest.fixture
def gpus(tmp_path: Path) -> Iterator[Simulated]:
    with simulated(tmp_path) as gpus, gpus.here():
        yield gpus


def handle(index: int) -> object:
    return pynvml.nvmlDeviceGetHandleByIndex(index)


def watts(index: int = 0) -> float:
    return pynvml.nvmlDeviceGetPowerUsage(handle(index)) / 1000


def joules(index: int = 0) -> float:
    return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle(index)) / 1000


def utilization(index: int = 0) -> int:
    return pynvml.nvmlDeviceGetUtilizationRates(handle(index)).gpu


def run(gpus: Simulated, code: str) -> subprocess.CompletedProcess[str]:
    code = f"from pynvml import *; nvmlInit(); {code}"
    return subprocess.run([sys.executable, "-c", code], env=gpus.env, capture_output=True, text=True)


def test_the_library_compiles_without_a_warning() -> None:
    sources = [str(path) for path in library.HERE.glob("*.c")]
    done = subprocess.run(["cc", *library.FLAGS, "-Werror", "-fsyntax-only", *sources], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_process_finds_four_a10gs_with_the_memory_of_a_real_one(tmp_path: Path) -> None:
    with simulated(tmp_path) as gpus:
        code = "m = nvmlDeviceGetMemoryInfo(nvmlDeviceGetHandleByIndex(3), version=nvmlMemory_v2)"
        done = run(gpus, f"{code}; print(nvmlDeviceGetCount(), m.total >> 20, m.reserved >> 20, m.used, m.free >> 20)")
    assert done.stdout.split() == ["4", "23028", "513", "0", "22515"]


def test_every_gpu_is_found_by_index_uuid_and_bus_in_pci_order(gpus: Simulated) -> None:
    gpus.set("gpus=16")
    buses = [pynvml.nvmlDeviceGetPciInfo(handle(i)).busId for i in range(pynvml.nvmlDeviceGetCount())]
    uuids = [pynvml.nvmlDeviceGetUUID(handle(i)) for i in range(16)]
    assert len(set(uuids)) == 16
    assert buses == sorted(set(buses))
    assert [pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(uuid)) for uuid in uuids] == list(range(16))
    assert [pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByPciBusId(bus)) for bus in buses] == list(range(16))
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        handle(16)
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetHandleByUUID("GPU-of-another-machine")


def test_the_first_form_of_memory_counts_what_the_driver_keeps_as_used(gpus: Simulated) -> None:
    gpus.set("memory=2000; memory.1=const:1000")
    first = [pynvml.nvmlDeviceGetMemoryInfo(handle(i)).used / MIB for i in range(2)]
    second = [pynvml.nvmlDeviceGetMemoryInfo(handle(i), version=pynvml.nvmlMemory_v2).used / MIB for i in range(2)]
    assert (first, second) == ([2513, 1513], [2000, 1000])


WAVES = {
    "const:200": lambda t: 200,
    "sine:150,80,7,1": lambda t: 150 + 80 * math.sin(2 * math.pi * (t + 1) / 7),
    "ramp:50,250,8,2": lambda t: 50 + 200 * min(1, max(0, (t - 2) / 8)),
    "square:70,270,1,0.3,0.1": lambda t: 270 if (t + 0.1) % 1 < 0.3 else 70,
    "step:100,2,200,3.5,60,9,280": lambda t: 100 if t < 2 else 200 if t < 3.5 else 60 if t < 9 else 280,
}


@pytest.mark.parametrize("wave", WAVES)
def test_a_wave_has_its_value_at_each_time_and_its_exact_integral(gpus: Simulated, wave: str) -> None:
    steps, end = 20_000, 11.3
    middles = [(i + 0.5) * end / steps for i in range(steps)]
    expected = sum(WAVES[wave](t) for t in middles) * end / steps
    gpus.set(f"power={wave}; clock=0")
    before = joules()
    for at in (0.0, 1.45, 3.6, end):
        gpus.set(f"power={wave}; clock={at}")
        assert watts() == pytest.approx(WAVES[wave](at), abs=0.001)
    assert joules() - before == pytest.approx(expected, rel=2e-4)


def test_what_a_scenario_leaves_out_follows_utilization(gpus: Simulated) -> None:
    gpus.set("util=100; util.2=30; util.3=0")
    assert [watts(i) for i in range(4)] == [270, 270, pytest.approx(92.2), 16]
    assert [pynvml.nvmlDeviceGetTemperatureV(handle(i), 0) for i in (0, 3)] == [70, 30]
    assert [pynvml.nvmlDeviceGetClockInfo(handle(i), pynvml.NVML_CLOCK_SM) for i in (0, 3)] == [1710, 210]
    gpus.set("util=100; clock=5")
    before = joules()
    gpus.set("util=100; clock=15")
    assert joules() - before == pytest.approx(2700)


def test_the_energy_counter_goes_on_when_the_scenario_changes(gpus: Simulated) -> None:
    gpus.set("power=100")
    before, start = joules(), time.perf_counter()
    time.sleep(0.3)
    gpus.set("power=280")
    expected, start = 100 * (time.perf_counter() - start), time.perf_counter()
    time.sleep(0.3)
    used = joules() - before
    assert used == pytest.approx(expected + 280 * (time.perf_counter() - start), rel=0.05)


def test_the_energy_counter_starts_again_when_the_driver_was_loaded_again(gpus: Simulated) -> None:
    gpus.set("power=100; energy_reset=3; clock=2.9")
    assert joules() > 1e6
    gpus.set("power=100; energy_reset=3; clock=4")
    assert joules() == pytest.approx(100)


def test_power_is_averaged_over_the_window_that_the_scenario_says(gpus: Simulated) -> None:
    gpus.set("power=step:100,4,200; power_window=1; clock=4.25")
    assert watts() == pytest.approx(125)
    fields = pynvml.nvmlDeviceGetFieldValues(
        handle(0), [pynvml.NVML_FI_DEV_POWER_INSTANT, pynvml.NVML_FI_DEV_POWER_AVERAGE, pynvml.NVML_FI_DEV_MEMORY_TEMP]
    )
    assert [field.value.uiVal for field in fields[:2]] == [200_000, 125_000]
    assert [field.nvmlReturn for field in fields] == [0, 0, pynvml.NVML_ERROR_NOT_SUPPORTED]


def test_a_lost_gpu_answers_nothing_and_comes_back(gpus: Simulated) -> None:
    held = handle(2)
    gpus.set("lost.2=3-6; util=50; clock=4")
    for read in (pynvml.nvmlDeviceGetUtilizationRates, pynvml.nvmlDeviceGetName, pynvml.nvmlDeviceGetUUID):
        with pytest.raises(pynvml.NVMLError_GpuIsLost):
            read(held)
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        handle(2)
    assert (pynvml.nvmlDeviceGetCount(), utilization(1), utilization(3)) == (4, 50, 50)
    gpus.set("lost.2=3-6; util=50; clock=6")
    assert pynvml.nvmlDeviceGetUtilizationRates(held).gpu == 50


def test_a_gpu_is_lost_after_so_many_calls(gpus: Simulated) -> None:
    held = handle(0)
    gpus.set("lost_after=3")
    for _ in range(3):
        pynvml.nvmlDeviceGetName(held)
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlDeviceGetName(held)


def test_an_error_has_a_function_a_gpu_and_a_time(gpus: Simulated) -> None:
    rule = "error.nvmlDeviceGetPowerUsage.1=999@3-6; error.nvmlDeviceGetTemperatureV=13"
    gpus.set(f"{rule}; clock=2.99")
    assert watts(1) == 16
    gpus.set(f"{rule}; clock=3")
    with pytest.raises(pynvml.NVMLError_Unknown):
        watts(1)
    assert (watts(0), utilization(1)) == (16, 0)
    with pytest.raises(pynvml.NVMLError_FunctionNotFound):
        pynvml.nvmlDeviceGetTemperatureV(handle(0), 0)
    assert pynvml.nvmlDeviceGetTemperature(handle(0), 0) == 30


def test_an_old_driver_has_the_first_form_of_memory_only(gpus: Simulated) -> None:
    gpus.set("error.nvmlDeviceGetMemoryInfo_v2=13")
    assert pynvml.nvmlDeviceGetMemoryInfo(handle(0)).used == 513 * MIB
    with pytest.raises(pynvml.NVMLError_FunctionNotFound):
        pynvml.nvmlDeviceGetMemoryInfo(handle(0), version=pynvml.nvmlMemory_v2)


def test_no_driver_no_initialization_and_a_slip_in_the_scenario_are_told_apart(tmp_path: Path) -> None:
    with simulated(tmp_path, "error.nvmlInit=9") as gpus:
        assert "NVMLError_DriverNotLoaded" in run(gpus, "").stderr
        gpus.set("")
        assert "NVMLError_Uninitialized" in run(gpus, "nvmlShutdown(); nvmlDeviceGetCount()").stderr
        gpus.set("utill=30")
        assert "simulated NVML: utill=30: no such key\n" in (done := run(gpus, "")).stderr
        assert "NVMLError_InvalidArgument" in done.stderr
        gpus.env["SIMULATED_NVML"] = "gpus=two"
        assert "simulated NVML: gpus=two: not a number\n" in run(gpus, "").stderr


SLIPS = ["util=wave:3", "util=sine:1,2", "util=const:1,2", "util.16=3", "gpus=17", "util", "lost=3", "error.nvmlInit=x"]
SLIPS += ["power=square:1,2,0", "gpus.1=2", "processes=12", "power=step:1,2", "error=3", "memory_total=many"]


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_in_a_scenario_is_told_and_the_one_before_stays(
    gpus: Simulated, capfd: pytest.CaptureFixture[str], slip: str
) -> None:
    gpus.set("util=40")
    assert utilization() == 40
    gpus.set(f"util=50; {slip}")
    assert utilization() == utilization() == 40
    assert capfd.readouterr().err.count(f"simulated NVML: {slip}: ") == 1


def test_a_slow_call_takes_its_time_and_delays_no_other(gpus: Simulated) -> None:
    gpus.set("slow.nvmlDeviceGetPowerUsage=300")
    slow = threading.Thread(target=watts)
    start = time.perf_counter()
    slow.start()
    time.sleep(0.02)
    utilization()
    assert time.perf_counter() - start < 0.25
    slow.join()
    assert time.perf_counter() - start >= 0.3


def test_a_call_hangs_until_its_time_is_over_and_delays_no_other(gpus: Simulated) -> None:
    gpus.set("hang.nvmlDeviceGetPowerUsage.1=0-")
    hung = threading.Thread(target=watts, args=(1,))
    hung.start()
    hung.join(0.3)
    assert hung.is_alive()
    assert (watts(0), utilization(1)) == (16, 0)
    gpus.set("")
    hung.join(10)
    assert not hung.is_alive()


def test_calls_are_counted_over_all_processes_also_of_one_that_was_killed(tmp_path: Path) -> None:
    loop = "[nvmlDeviceGetHandleByIndex(0) for _ in range(37)]; print(1, flush=True); nvmlDeviceGetCount()"
    with simulated(tmp_path, "hang.nvmlDeviceGetCount=0-") as gpus:
        command = [sys.executable, "-c", f"from pynvml import *; nvmlInit(); {loop}"]
        children = [subprocess.Popen(command, env=gpus.env, stdout=subprocess.PIPE) for _ in range(2)]
        for child in children:
            assert child.stdout and child.stdout.readline() == b"1\n"
            os.kill(child.pid, signal.SIGKILL)
            child.communicate()
        assert gpus.calls()["nvmlDeviceGetHandleByIndex"] == 2 * 37
        assert gpus.calls()["nvmlInit"] == 2


def test_threads_see_whole_scenarios_only_while_they_change(gpus: Simulated) -> None:
    """Each scenario has the same number for utilization and temperature of its GPU, so a mixture would show."""
    seen: set[tuple[int, int]] = set()
    until = time.perf_counter() + 1

    def read() -> None:
        while time.perf_counter() < until:
            seen.add((pynvml.nvmlDeviceGetUtilizationRates(handle(1)).gpu, pynvml.nvmlDeviceGetCount()))

    gpus.set("util=1; gpus=2")
    readers = [threading.Thread(target=read) for _ in range(6)]
    for reader in readers:
        reader.start()
    for i in range(14):
        gpus.set(f"util={1 + i % 2}; gpus={2 + i % 2}")
        time.sleep(0.07)
    for reader in readers:
        reader.join()
    assert {util for util, _ in seen} == {1, 2}
    assert {count for _, count in seen} == {2, 3}


def test_the_ring_of_samples_shows_a_burst_that_fell_between_two_looks(gpus: Simulated) -> None:
    gpus.set("util=step:0,10,80,10.2,0; sample_period=0.05; clock=12")
    _, samples = pynvml.nvmlDeviceGetSamples(handle(0), pynvml.NVML_GPU_UTILIZATION_SAMPLES, 0)
    assert len(samples) == 120
    assert [sample.sampleValue.uiVal for sample in samples].count(80) == 4
    since = samples[-10].timeStamp
    _, newer = pynvml.nvmlDeviceGetSamples(handle(0), pynvml.NVML_GPU_UTILIZATION_SAMPLES, since)
    assert [sample.timeStamp for sample in newer] == [sample.timeStamp for sample in samples[-9:]]
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetSamples(handle(0), pynvml.NVML_GPU_UTILIZATION_SAMPLES, samples[-1].timeStamp)


def test_gpm_gives_means_between_two_samples_where_it_is_supported(gpus: Simulated) -> None:
    assert not pynvml.nvmlGpmQueryDeviceSupport(handle(0)).isSupportedDevice
    samples = [pynvml.nvmlGpmSampleAlloc() for _ in range(2)]
    for sample, clock in zip(samples, (2, 6), strict=True):
        gpus.set(f"gpm=1; util=100; sm=step:80,5,40; tensor=12; clock={clock}")
        pynvml.nvmlGpmSampleGet(handle(0), sample)
    got = pynvml.c_nvmlGpmMetricsGet_t(version=1, numMetrics=4, sample1=samples[0], sample2=samples[1])
    wanted = [pynvml.NVML_GPM_METRIC_SM_UTIL, pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL]
    wanted += [pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL, pynvml.NVML_GPM_METRIC_FP64_UTIL]
    for metric, number in zip(got.metrics, wanted, strict=False):
        metric.metricId = number
    pynvml.nvmlGpmMetricsGet(got)
    assert [metric.value for metric in got.metrics[:3]] == pytest.approx([70, 12, 50])
    assert [metric.nvmlReturn for metric in got.metrics[:4]] == [0, 0, 0, pynvml.NVML_ERROR_NOT_SUPPORTED]
    for sample in samples:
        pynvml.nvmlGpmSampleFree(sample)


def test_throttling_errors_of_memory_and_processes_are_what_the_scenario_says(gpus: Simulated) -> None:
    gpus.set("throttle=step:4,3,72; ecc_uncorrected=2; processes.1=4242:2048,4300:100; clock=3")
    assert pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle(0)) == 72
    assert pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle(0)) == 72
    assert pynvml.nvmlDeviceGetTotalEccErrors(handle(0), 1, 0) == 2
    found = [(p.pid, p.usedGpuMemory // MIB) for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle(1))]
    assert found == [(4242, 2048), (4300, 100)]
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(handle(0)) == []
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetFanSpeed(handle(0))


def share(process: psutil.Process, before: float, start: float) -> float:
    used = process.cpu_times()
    return 100 * (used.user + used.system - before) / (time.perf_counter() - start)


@pytest.mark.parametrize("core", [1, 4])
def test_utilization_and_memory_follow_real_processes(gpus: Simulated, core: int) -> None:
    sleep = f"kept = bytearray({64 * MIB}); import time; print(1, flush=True); time.sleep(60)"
    busy = subprocess.Popen([sys.executable, "-c", SPIN])
    idle = subprocess.Popen([sys.executable, "-c", sleep], stdout=subprocess.PIPE)
    assert idle.stdout and idle.stdout.readline() == b"1\n"
    try:
        gpus.follow(0, busy.pid)
        gpus.follow(2, idle.pid)
        gpus.set(f"follow={gpus.pids}; core={core}")
        time.sleep(0.5)
        utilization(0), utilization(2)
        process = psutil.Process(busy.pid)
        before, start, energy = sum(process.cpu_times()[:2]), time.perf_counter(), joules(0)
        time.sleep(1)
        shown, energy = utilization(0), joules(0) - energy
        real, passed = share(process, before, start) / core, time.perf_counter() - start
        assert shown == pytest.approx(real, abs=12)
        assert energy == pytest.approx((16 + 254 * real / 100) * passed, rel=0.2)
        assert (utilization(1), utilization(2)) == (0, 0)
        (used,) = pynvml.nvmlDeviceGetProcessUtilization(handle(0), 0)
        assert (used.pid, used.smUtil) == (busy.pid, pytest.approx(real, abs=15))
        (found,) = pynvml.nvmlDeviceGetComputeRunningProcesses(handle(2))
        assert (found.pid, found.usedGpuMemory) == (idle.pid, pytest.approx(psutil.Process(idle.pid).memory_info().rss))
        assert found.usedGpuMemory > 64 * MIB
    finally:
        busy.kill(), idle.kill()
        busy.communicate(), idle.communicate()


def test_processes_of_a_script_are_found_and_their_local_rank_says_which_gpu(tmp_path: Path, gpus: Simulated) -> None:
    script = tmp_path / "rank_train.py"
    script.write_text("import time; time.sleep(60)\n")
    python = [sys.executable, "-u", str(script)]
    starts: list[tuple[list[str], dict[str, str]]] = [(python, {"LOCAL_RANK": "1"}), (python, {"LOCAL_RANK": "3"})]
    starts += [
        (python, {}),
        ([sys.executable, "-m", "timeit", str(script)], {}),
        (python, {"SIMULATED_NVML": "util=3"}),
    ]
    children = [subprocess.Popen(command, env={**os.environ, **given}) for command, given in starts]
    try:
        gpus.set("follow=rank_train.py")
        wanted = [[children[2].pid], [children[0].pid], [], [children[1].pid]]
        deadline = time.perf_counter() + 20
        while (found := [pids_on(i) for i in range(4)]) != wanted and time.perf_counter() < deadline:
            time.sleep(0.25)
        assert found == wanted
    finally:
        for child in children:
            child.kill()
            child.wait()


def pids_on(index: int) -> list[int]:
    return [process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle(index))]


def test_a_user_runs_a_command_among_simulated_gpus() -> None:
    code = "from pynvml import *; nvmlInit(); h = nvmlDeviceGetHandleByIndex(1)"
    command = [sys.executable, "-c", f"{code}; print(nvmlDeviceGetCount(), nvmlDeviceGetUtilizationRates(h).gpu)"]
    words = [sys.executable, library.__file__, "gpus=2; util.1=60", *command]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.split() == ["2", "60"]
    printed = subprocess.run(words[:3], capture_output=True, text=True, check=True).stdout
    shell = f'{printed}exec "$@"'
    done = subprocess.run(["sh", "-c", shell, "sh", *command], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "60"]
