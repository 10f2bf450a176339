"""`make gputop`: the live view in a terminal, fed by a real sampler among simulated GPUs; and printed once."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gpu_runs import BEGIN, busy, created, sampled
from nvml.simulated import simulated
from terminal import CTRL_C, Terminal
from test_gpu_sampler import sampling

from lib import top
from lib.errors import Refused
from lib.files import append_line
from lib.gpu import store
from lib.gpu.readings import Values
from lib.journal.folder import RunFolder
from lib.options import ROOT
from lib.report import gpu_summary
from lib.report.gpu_recording import recorded


def shown(run: RunFolder, *, now: float = BEGIN + 120, width: int = 100, letters: top.Letters = top.FINE) -> str:
    view = top.View(run)
    view.look()
    return "\n".join(top.rendered(line) for line in top.frame(view, now, width, letters=letters))


def watched(run: RunFolder) -> Terminal:
    return Terminal(ROOT, script="gputop.py", rows=30, KCONF_CLI="RUN", RUN=str(run.path))


@contextmanager
def training(run: RunFolder) -> Iterator[None]:
    """Somebody holds the run's lock."""
    lock = run.lock
    assert lock.take()
    try:
        yield
    finally:
        lock.free()


def test_a_running_job_is_seen_live_and_q_leaves(tmp_path: Path) -> None:
    run = created(tmp_path)
    scenario = "util=90; util.2=30; memory=18000; temperature=66; power=240"
    with simulated(tmp_path, scenario) as gpus, training(run), sampling(run.path, gpus.env) as sampler:
        sampler.wait(samples=12)
        sampler.mark(steps=10)
        with watched(run) as terminal:
            terminal.sees("gpt2-a3f2c/gpt2_adamw_1  running  step 10", "0 NVIDIA A10G", "3 NVIDIA A10G", "q leaves")
            terminal.sees("90 %", "30 %", "17.6/22.5 GiB", "66 °C", "240/300 W", "all", "960 W", "CV 34.6 %  Poor")
            gpus.set("util=50; memory=9000; temperature=50; power=100; lost.1=0-")
            terminal.sees("50 %", "8.8/22.5 GiB", "100/300 W", "lost: it can't be reached", "gpu 1 lost: GPU is lost")
            assert "90 %" not in terminal.text
            gpus.set("util=60; memory=9000; temperature=50; power=100")
            terminal.sees("60 %", "400 W", "gpu 1: it is back")
            terminal.resize(30, 70)
            terminal.sees("q leaves")
            assert terminal.ends("q") == 0
            assert terminal.printed.endswith(top.LEAVE.encode())
        sampler.end()
    text = gpu_summary.text(recorded(run))  # the same samples, afterwards
    assert "4 × NVIDIA A10G" in text
    assert "gpu 1 lost: GPU is lost" in text


@pytest.mark.parametrize("key", ["Q", CTRL_C])
def test_other_ways_to_leave(tmp_path: Path, key: str) -> None:
    with watched(sampled(created(tmp_path), gpus=2, seconds=30)) as terminal:
        terminal.sees("1 NVIDIA A10G", "q leaves")
        assert terminal.ends(key) == 0
        assert terminal.printed.endswith(top.LEAVE.encode())


def test_without_a_terminal_it_is_printed_once(tmp_path: Path) -> None:
    run = sampled(created(tmp_path), seconds=30)
    command = [sys.executable, str(ROOT / "scripts" / "gputop.py")]
    done = subprocess.run(
        command, env={"KCONF_CLI": "RUN", "RUN": str(run.path)}, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[2:6]] == [[str(index), "NVIDIA"] for index in range(4)]
    assert "\x1b" not in done.stdout


def test_the_job_that_runs_is_shown_even_when_another_was_sampled_later(tmp_path: Path) -> None:
    first = sampled(created(tmp_path, "first"), gpus=2, seconds=2)
    time.sleep(0.02)
    second = sampled(created(tmp_path, "second"), gpus=2, seconds=2)
    assert top.current(tmp_path / "runs").path == second.path
    with training(first):
        assert top.current(tmp_path / "runs").path == first.path


def test_each_gpu_has_its_line_and_bars_as_wide_as_the_screen_allows(tmp_path: Path) -> None:
    run = sampled(created(tmp_path), gpus=8, seconds=30)
    for width in (40, 79, 160):
        lines = shown(run, width=width).splitlines()
        assert [line.split()[0] for line in lines[2:10]] == [str(index) for index in range(8)]
        assert max(map(len, lines)) <= width
    wide = shown(run, width=160)
    assert wide.count("█") > 8 * 60
    assert "300 W" in shown(run, width=79)


def test_a_bar_is_as_long_as_its_value_to_an_eighth() -> None:
    for value, expected in ((0.0, "··········"), (50.0, "█████·····"), (51.25, "█████▏····"), (100.0, "██████████")):
        assert "".join(text for text, _ in top._bar(value, 100.0, 10, top.FINE)) == expected
    assert "".join(text for text, _ in top._bar(50.0, 100.0, 10, top.COARSE)) == "#####....."
    assert "".join(text for text, _ in top._bar(None, 100.0, 4, top.FINE)) == "····"


def test_the_balance_is_that_of_the_latest_window(tmp_path: Path) -> None:
    def uneven(second: int, index: int) -> Values:
        return [30.0 if index == 2 else 90.0, *busy(second, index)[1:]]

    run = sampled(created(tmp_path), wave=uneven, slow_rank=2)
    text = shown(run)
    values = store.windows(run.path)[-1]["values"]
    assert f"CV {values['gpu_load_balance_cv']:.1f} %  Poor   now 34.6 %" in text
    assert "work 57.7 %" in text
    assert "rank 2 does the most work: the others wait for it" in text
    assert f"{values['gpu_energy_total_kwh']:.4g} kWh" in text


def test_a_sampler_that_is_silent_is_told_while_the_job_runs(tmp_path: Path) -> None:
    run = sampled(created(tmp_path), gpus=2, seconds=30)
    with training(run):
        assert "no sample for" not in shown(run, now=BEGIN + 31)
        assert "no sample for 1 min 01 s" in shown(run, now=BEGIN + 90)
    assert "no sample for" not in shown(run, now=BEGIN + 90)


def test_a_host_without_gpus_is_shown(tmp_path: Path) -> None:
    text = shown(sampled(created(tmp_path), gpus=0, seconds=30, wave=lambda second, _: [50.0, 8192.0]))
    assert "a                     50 %" in text
    assert "8.0/62.5 GiB" in text
    assert "°C" not in text


def test_a_file_that_has_become_long_is_read_from_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = sampled(created(tmp_path), gpus=2, seconds=300)
    monkeypatch.setattr(top, "BEHIND", 2000)
    view = top.View(run)
    view.look()
    assert 0 < len(view.rows[0]) < 100
    assert view.rows[0][-1].time == BEGIN + 299
    assert "0 NVIDIA A10G" in shown(run)


def test_events_of_the_sampler_are_shown_with_their_time(tmp_path: Path) -> None:
    run = sampled(created(tmp_path), gpus=2, seconds=3)
    path = run.path / store.FOLDER / "rank-0" / store.EVENTS
    append_line(path, {"event": "found", "what": "2 × NVIDIA A10G"})
    append_line(path, {"event": "lacks", "gpus": [0, 1], "field": "power", "why": "not supported"})
    clock = time.strftime("%H:%M")
    assert f"\n{clock}" in shown(run)
    assert "gpu 0, 1 lacks power: not supported" in shown(run)
    assert "2 × NVIDIA" not in shown(run)


def test_without_any_monitored_run_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"has GPU samples. Train one with GPU_MONITOR=y"):
        top.main(tmp_path, {})
