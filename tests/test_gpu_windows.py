"""Windows from samples and marks that are made up: names, definitions, what is missing, several nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from gpu_runs import cards

from lib.gpu.readings import FIELDS, HOST_FIELDS, Gpu
from lib.gpu.store import Header, Row
from lib.gpu.tally import rounded
from lib.gpu.windows import Closed, Terms, Windows


def header(count: int = 4, *, host: str = "a", fields: tuple[str, ...] = FIELDS) -> Header:
    return Header(0.0, host, "nvml" if fields == FIELDS else "host", "driver 1", 1.0, fields, cards(count, host))


def gpu(
    utilization: float = 90,
    power: float = 200,
    memory: float = 18000,
    *,
    throttle: int = 0,
    joules: float | None = None,
) -> list[float | None]:
    return [utilization, memory, 60.0, power, 1500, 5000, throttle, joules, None, None]


def mark(time: float, step: int, *, steps: int = 10, compute_s: float = 1.0) -> dict[str, Any]:
    return {"time": time, "step": step, "steps": steps, "units": 100 * steps, "compute_s": compute_s}


def started(*, world: int = 1, terms: Terms | None = None, count: int = 4) -> Windows:
    windows = Windows(terms or Terms(world=world), 0.0)
    windows.describe(0, header(count))
    for rank in range(world):
        windows.mark(rank, {"time": 0.0, "uuid": "", "host": "a"})
    return windows


def closed_of(windows: Windows, seconds: Sequence[Sequence[Any]], *, first: int = 1) -> Closed:
    """The window of these samples, one a second, and a mark of process 0 after them."""
    for time, gpus in enumerate(seconds, start=first):
        windows.add(0, Row(float(time), gpus))
    end = first + len(seconds) - 0.5
    windows.mark(0, mark(end, 10 * first + len(seconds)))
    closed = windows.finished(end + 100)
    assert closed
    return closed


def test_every_name_of_the_contract_is_logged() -> None:
    values = closed_of(started(), [[gpu(), gpu(), gpu(), gpu(30)]] * 10).values
    assert values["gpu_total_memory_used"] == 72000
    assert values["gpu_total_memory_percent"] == pytest.approx(78.1657)
    assert values["gpu_average_utilization"] == 75
    assert values["gpu_total_power"] == 800
    assert values["gpu_max_temperature"] == 60
    assert values["gpu_load_balance_cv"] == pytest.approx(34.641, abs=0.001)
    assert (values["gpu_load_balance_quality"], values["gpu_load_balance_quality_code"]) == ("Poor", 1)
    for index in range(4):
        names = ("memory_used", "utilization", "temperature", "power")
        assert [values[f"gpu_{index}_{name}"] for name in names] == [18000, 30 if index == 3 else 90, 60, 200]
    for name in ("memory", "power"):
        assert values[f"gpu_load_balance_cv_{name}"] == 0
    assert values["gpu_load_balance_cv_sampled"] == pytest.approx(34.641, abs=0.001)
    assert values["gpu_count_valid"] == 4
    assert values["gpu_samples"] == 10


def test_a_window_has_at_least_ten_samples_or_ten_seconds() -> None:
    windows = started()
    for time in range(1, 10):
        windows.add(0, Row(float(time), [gpu()] * 4))
    windows.mark(0, mark(9.5, 10))
    assert windows.finished(1000) is None
    windows.mark(0, mark(10.1, 20))
    closed = windows.finished(1000)
    assert closed
    assert (closed.step, closed.time, closed.values["gpu_samples"]) == (20, 10.1, 9)


def test_the_last_window_is_logged_however_short() -> None:
    windows = started()
    windows.add(0, Row(1.0, [gpu()] * 4))
    windows.mark(0, mark(1.5, 10))
    closed = windows.last(2.0)
    assert closed
    assert (closed.step, closed.values["gpu_samples"]) == (10, 1)
    assert windows.last(2.0) is None


def test_a_straggler_that_changes_shows_in_the_samples_balance_alone() -> None:
    rotating = [[gpu(30 if second % 4 == index else 90) for index in range(4)] for second in range(12)]
    values = closed_of(started(), rotating).values
    assert values["gpu_load_balance_cv"] == 0
    assert values["gpu_load_balance_cv_sampled"] == pytest.approx(34.641, abs=0.001)


def test_a_lost_gpu_is_null_and_so_are_the_totals_and_they_come_back() -> None:
    windows = started()
    whole, lost = [gpu()] * 4, [gpu(), gpu(), None, gpu()]
    valid = []
    for first, seconds in ((1, [whole] * 10), (11, [whole] * 5 + [lost] * 5), (21, [whole] * 10)):
        values = closed_of(windows, seconds, first=first).values
        valid.append(values["gpu_count_valid"])
        unknown = {name for name, value in values.items() if value is None}
        expected = {"gpu_2_power", "gpu_total_power", "gpu_average_utilization", "gpu_load_balance_cv"}
        assert (expected <= unknown) == (valid[-1] == 3)
        assert values["gpu_load_balance_quality"] == ("Unknown" if valid[-1] == 3 else "Excellent")
    assert valid == [4, 3, 4]


def test_a_gpu_that_is_lost_from_the_start_is_one_of_four_and_nobodys_own() -> None:
    whole = header()
    gpus = (*whole.gpus[:2], Gpu(2, "", "NVIDIA GPU"), whole.gpus[3])
    windows = started()
    windows.describe(0, replace(whole, gpus=gpus))
    values = closed_of(windows, [[gpu(), gpu(), None, gpu()]] * 10).values
    assert values["gpu_count_valid"] == 3 and values["gpu_3_utilization"] == 90
    assert values["gpu_average_utilization"] is None and values["gpu_load_balance_quality"] == "Unknown"


def test_a_value_that_is_missing_now_and_then_costs_nothing_and_a_third_too_many_the_mean() -> None:
    deaf = gpu()
    deaf[0] = None
    now_and_then = [[gpu()] * 4] * 6 + [[deaf, gpu(), gpu(), gpu()]] * 4
    assert closed_of(started(), now_and_then).values["gpu_0_utilization"] == 90
    mostly = [[gpu()] * 4] * 4 + [[deaf, gpu(), gpu(), gpu()]] * 6
    values = closed_of(started(), mostly).values
    assert values["gpu_0_utilization"] is values["gpu_average_utilization"] is None
    assert values["gpu_0_power"] == 200


def test_only_the_gpus_of_the_jobs_processes_count_in_their_order() -> None:
    windows = Windows(Terms(world=2), 0.0)
    windows.describe(0, header(4))
    windows.mark(0, {"time": 0.0, "uuid": "GPU-a3", "host": "a"})
    windows.mark(1, {"time": 0.0, "uuid": "GPU-a1", "host": "a"})
    values = closed_of(windows, [[gpu(0), gpu(95), gpu(0), gpu(85)]] * 10).values
    assert (values["gpu_0_utilization"], values["gpu_1_utilization"]) == (85, 95)
    assert "gpu_2_utilization" not in values
    assert values["gpu_load_balance_quality"] == "Good"


def test_the_work_of_each_process_names_the_straggler_that_full_load_hides() -> None:
    windows = started(world=4)
    for rank, seconds in ((1, 1.0), (2, 3.0), (3, 1.0)):
        windows.mark(rank, mark(9.9, 1000, compute_s=seconds))
    spinning = [gpu(99, 75), gpu(99, 75), gpu(99, 250), gpu(99, 75)]
    values = closed_of(windows, [spinning] * 10).values
    assert values["gpu_load_balance_quality"] == "Excellent"
    assert values["gpu_load_balance_suspect"] == 1
    assert values["gpu_load_balance_cv_compute_time"] == pytest.approx(57.735, abs=0.001)
    assert values["gpu_slowest_rank"] == 2
    assert values["gpu_2_compute_time"] == pytest.approx(0.3)


def test_a_window_waits_for_the_marks_of_all_processes_but_not_for_ever() -> None:
    windows = started(world=2)
    for time in range(1, 11):
        windows.add(0, Row(float(time), [gpu()] * 4))
    windows.mark(0, mark(10.5, 10))
    assert windows.finished(10.6) is None
    assert not windows.complete()
    windows.mark(1, mark(10.6, 10))
    assert windows.complete()
    closed = windows.finished(10.7)
    assert closed
    assert closed.values["gpu_load_balance_cv_compute_time"] == 0
    for time in range(11, 21):
        windows.add(0, Row(float(time), [gpu()] * 4))
    windows.mark(0, mark(20.5, 20))
    assert windows.finished(20.6) is None
    late = windows.finished(23.6)
    assert late
    assert late.values["gpu_load_balance_cv_compute_time"] is None


def test_what_comes_while_a_window_waits_is_the_next_ones() -> None:
    windows = started(world=2)
    for time in range(1, 11):
        windows.add(0, Row(float(time), [gpu(joules=100.0 * time)] * 4))
    windows.mark(0, mark(10.5, 10))
    windows.add(0, Row(11.0, [gpu(30, joules=1100)] * 4))
    windows.mark(0, mark(11.5, 40, steps=30))
    windows.mark(1, mark(11.6, 40, steps=40, compute_s=4))
    closed, rest = windows.finished(11.7), windows.last(12.0)
    assert closed
    assert rest
    assert (closed.step, closed.values["gpu_samples"], closed.values["gpu_0_utilization"]) == (10, 10, 90)
    assert closed.values["gpu_joules_per_step"] == pytest.approx(4 * 900 / 10)
    assert (rest.step, rest.values["gpu_samples"], rest.values["gpu_0_utilization"]) == (40, 1, 30)
    assert rest.values["gpu_joules_per_step"] == pytest.approx(4 * 100 / 30, rel=1e-5)


def test_energy_and_cost_are_the_counters_and_the_prices() -> None:
    terms = Terms(unit="token", gpu_price_per_hour=3.6, electricity_price_per_kwh=0.36)
    windows = started(terms=terms, count=2)
    seconds = [[gpu(joules=1e6 + 100 * time), gpu(joules=2e6 + 300 * time)] for time in range(12)]
    closed_of(windows, seconds)
    later = closed_of(
        windows, [[gpu(joules=1e6 + 100 * t), gpu(joules=2e6 + 300 * t)] for t in range(12, 22)], first=13
    )
    values = later.values
    assert values["gpu_energy_joules"] == 4000  # ten seconds at 400 W
    assert values["gpu_joules_per_step"] == 400
    assert values["gpu_joules_per_token"] == 4
    assert values["gpu_energy_source"] == "counter"
    assert values["gpu_energy_total_kwh"] == rounded(400 * 21 / 3.6e6)
    hours = 2 * 22.5 / 3600
    assert values["gpu_cost"] == rounded(hours * 3.6 + 8400 / 3.6e6 * 0.36)


def test_what_earlier_attempts_have_used_stays_used() -> None:
    before = closed_of(started(count=1), [[gpu(joules=100.0 * time)] for time in range(11)])
    windows = Windows(Terms(), 0.0, dict(before.totals))
    windows.describe(0, header(1))
    windows.mark(0, {"time": 0.0, "uuid": "", "host": "a"})
    after = closed_of(windows, [[gpu(joules=100.0 * time)] for time in range(11)])
    assert before.totals["joules"] == 1000
    assert after.totals["joules"] == 2000
    assert after.totals["gpu_hours"] == pytest.approx(2 * before.totals["gpu_hours"])


def test_a_job_that_turns_out_to_have_fewer_gpus_has_still_used_what_it_had() -> None:
    windows = started(count=2)
    first = closed_of(windows, [[gpu(joules=100.0 * time), gpu(joules=100.0 * time)] for time in range(11)])
    windows.mark(0, {"time": 11.0, "uuid": "GPU-a0", "host": "a"})
    assert len(windows.job) == 1
    second = closed_of(
        windows, [[gpu(joules=100.0 * time), gpu(joules=100.0 * time)] for time in range(12, 22)], first=13
    )
    assert (first.totals["joules"], second.totals["joules"]) == (2000, 2000 + 1100)


def test_throttling_is_a_share_of_the_gpus_time() -> None:
    seconds = [[gpu(throttle=0x4 if second < 5 else 0x1), gpu(throttle=0x40)] for second in range(10)]
    values = closed_of(started(count=2), seconds).values
    assert values["gpu_throttled_power_cap_percent"] == 25
    assert values["gpu_throttled_hw_thermal_percent"] == 50
    assert values["gpu_throttled_hw_slowdown_percent"] == 0


def test_the_gpus_of_several_nodes_are_numbered_through_and_awaited() -> None:
    windows = Windows(Terms(world=4), 0.0)
    windows.describe(0, header(2, host="a"))
    windows.describe(2, header(2, host="b"))
    for time in range(1, 11):
        windows.add(0, Row(float(time), [gpu(90), gpu(90)]))
    windows.mark(0, {"time": 0.0, "uuid": "", "host": "a"})
    windows.mark(0, mark(10.5, 10))
    assert windows.finished(10.6) is None
    for time in range(1, 12):
        windows.add(2, Row(time + 0.01, [gpu(30), gpu(90)]))
    closed = windows.finished(11.1)
    assert closed
    assert [closed.values[f"gpu_{index}_utilization"] for index in range(4)] == [90, 90, 30, 90]
    assert closed.values["gpu_load_balance_quality"] == "Poor"


def test_without_a_gpu_the_host_is_logged() -> None:
    windows = Windows(Terms(), 0.0)
    windows.describe(0, header(1, fields=HOST_FIELDS))
    windows.mark(0, {"time": 0.0, "uuid": "", "host": "a"})
    values = closed_of(windows, [[[50.0, 11514.0]]] * 10).values
    assert (values["host_cpu_utilization"], values["host_memory_used"]) == (50, 11514)
    assert values["host_memory_percent"] == 50
    assert not [name for name in values if name.startswith("gpu_total")]
