"""What is told while it happens: lost GPUs, values that stay away, a job that spins; and calls that never return."""

from __future__ import annotations

import threading
import time

from lib.gpu.alarms import MOST, Faults, Spin
from lib.gpu.probe import Probe, Sample
from lib.gpu.readings import FIELDS, Absent, Gpu, Reading

WHOLE = Reading([1.0] * len(FIELDS))
LOST = Reading(None, {"gpu": "GPU is lost"})
DEAF = Reading([None, *[1.0] * 9], {"utilization": "Unknown Error"})
GPUS = [Gpu(index, f"GPU-{index}", "NVIDIA A10G", power_limit_watts=300.0) for index in range(2)]


def test_a_fault_is_told_when_it_comes_and_when_it_goes() -> None:
    faults = Faults(3)
    assert faults.look([WHOLE, WHOLE, WHOLE]) == []
    (lost,) = faults.look([WHOLE, LOST, LOST])
    assert lost == {"event": "lost", "field": "it", "why": "GPU is lost", "gpus": [1, 2]}
    assert faults.look([WHOLE, LOST, LOST]) == []
    (back,) = faults.look([WHOLE, WHOLE, LOST])
    assert (back["event"], back["gpus"]) == ("back", [1])
    (lacks,) = faults.look([DEAF, WHOLE, LOST])
    assert (lacks["event"], lacks["field"], lacks["gpus"]) == ("lacks", "utilization", [0])


def test_a_fault_that_comes_and_goes_for_ever_is_told_a_few_times() -> None:
    faults = Faults(1)
    told = [event for _ in range(50) for reading in (DEAF, WHOLE) for event in faults.look([reading])]
    assert len(told) == 2 * MOST


def test_what_only_the_newest_gpus_have_is_not_missed() -> None:
    assert Faults(1).look([Reading([1.0] * 8 + [None, None], {"sm_active": "Not Supported"})]) == []


def spinning(spin: Spin, seconds: range, *, utilization: float = 99, power: float = 75) -> list[str]:
    return [why for second in seconds if (why := spin.look(second, [(gpu, utilization, power) for gpu in GPUS]))]


def test_a_job_that_spins_without_a_step_is_told_once() -> None:
    spin = Spin()
    for step in range(5):
        spin.mark(step, step)
    assert spinning(spin, range(5, 60)) == []
    (why,) = spinning(spin, range(60, 300))
    assert "no step since step 4" in why
    spin.mark(300, 5)
    assert len(spinning(spin, range(301, 500))) == 1


def test_work_idleness_and_steps_that_take_long_are_no_spinning() -> None:
    spin = Spin()
    spin.mark(0, 1)
    assert spinning(spin, range(300), power=200) == []
    assert spinning(spin, range(300), utilization=10) == []
    slow = Spin()
    for step in range(4):
        slow.mark(30 * step, step)
    assert spinning(slow, range(90, 380)) == []  # ten steps take 300 s
    assert len(spinning(slow, range(380, 400))) == 1


class Slow:
    """Two GPUs, of which the second answers when it may."""

    kind, about, fields, gpus = "fake", "", FIELDS, GPUS

    def __init__(self) -> None:
        self.may = threading.Event()

    def read(self, position: int) -> Reading:
        if position == 1:
            self.may.wait(30)
        return WHOLE


def next_sample(probe: Probe) -> Sample:
    posted = probe.posted.get(timeout=10)
    assert isinstance(posted, Sample)
    return posted


def test_a_call_that_never_returns_costs_that_gpu_alone_until_it_does() -> None:
    source = Slow()
    probe = Probe(lambda: source, 0.02)
    assert probe.posted.get(timeout=10) is source
    time.sleep(0.2)
    assert probe.posted.empty()
    probe.abandon()
    assert [reading.values is None for reading in next_sample(probe).readings] == [False, True]
    source.may.set()
    until = time.monotonic() + 10
    while next_sample(probe).readings[1].values is None:
        assert time.monotonic() < until


def test_a_source_that_is_absent_is_said_once() -> None:
    def nothing() -> Slow:
        raise Absent("no driver")

    probe = Probe(nothing, 0.02)
    assert str(probe.posted.get(timeout=10)) == "no driver"
    probe.abandon()  # nothing hangs
    time.sleep(0.1)
    assert probe.posted.empty()
