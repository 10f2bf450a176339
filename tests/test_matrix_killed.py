"""A matrix whose driver and trainers are killed at random moments, and continued, is the one that nobody disturbed."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from cloning import VENV, cloned_to
from matrices import STEPS, Workshop, few, planned, steps_of
from planting import until

from lib.journal import lines
from lib.journal.folder import RunFolder
from lib.matrix import cell as unit
from lib.matrix import engine, status
from lib.matrix.plan import find
from lib.matrix.verdict import Verdict

MOMENTS = 30
SMALL = (
    *("MATRIX_OPTIMIZERS=sgd,adamwprune", "MATRIX_PRUNINGS=none,state", "MATRIX_SPARSITIES=0.5", "MATRIX_SEEDS=0:8"),
    *("MAX_ITERS=60", "LOG_INTERVAL=5", "EVAL_INTERVAL=20", "EVAL_SAMPLES=2", "CHECKPOINT_INTERVAL_S=0", "DEVICE=cpu"),
)
TIMED = ("_s", "_per_second")  # endings of values that a clock gave


def kill(driver: subprocess.Popen[bytes], *, trainers: bool) -> int:
    """The driver, and with `trainers` all that it started; how many these were."""
    try:
        below = psutil.Process(driver.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        below = []
    victims = [*below, driver] if trainers else [driver]
    random.shuffle(victims)
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    driver.wait(30)
    psutil.wait_procs(below if trainers else [], timeout=30)
    return len(below)


def test_an_orphan_is_asked_to_stop_then_killed_and_no_process_of_an_earlier_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, lock, signals = RunFolder(tmp_path), unit.Held(tmp_path / unit.LOCK), list[tuple[int, int]]()
    monkeypatch.setattr(os, "killpg", lambda *told: signals.append(told))
    with subprocess.Popen(["true"]) as driver:
        pass
    assert lock.take()
    (tmp_path / unit.LOCK).write_text(f"{driver.pid} {socket.gethostname()}\n")
    late = Verdict("timeout", "too long")
    run.record("trial", number=1, pid=11, processes=1)
    run.record("verdict", number=1, kind="killed", why="by hand")  # the driver died before it wrote of trial 2
    unit.end_orphan(run, late, limit_s=-1, grace_s=-1)
    assert not signals
    run.record("trial", number=2, pid=22, processes=1)
    for patience_s in (60, -1, 60, -1):
        unit.end_orphan(run, late, limit_s=patience_s, grace_s=patience_s)
    assert signals == [(22, signal.SIGTERM), (22, signal.SIGKILL)]
    lock.free()


def test_the_workers_of_torchrun_are_killed_with_it(tmp_path: Path) -> None:
    """They have sessions of their own, and their own will: a hung one does not end with torchrun."""
    run, trainer = RunFolder(tmp_path), [sys.executable, "-c", "import time; time.sleep(60)", "--resume", str(tmp_path)]
    with contextlib.ExitStack() as last:
        torchrun, worker, other = (
            last.enter_context(subprocess.Popen(words, start_new_session=True))
            for words in (trainer, trainer, [*trainer, "and more"])
        )
        last.callback(other.kill)
        run.record("trial", number=1, pid=torchrun.pid, processes=2)
        unit._kill(run, unit.last_event(run, "trial"))
        assert (torchrun.wait(10), worker.wait(10), other.poll()) == (-signal.SIGKILL, -signal.SIGKILL, None)


def test_a_cell_that_was_claimed_and_let_go_has_not_failed_again(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path / "kilter")
    workshop.behaves(sgd="crash")
    workshop.runs("test_matrix", **few(["sgd"], seeds="0"))
    (cell,) = workshop.matrix.cells
    theirs = unit.Trial.claim(workshop.matrix, cell)
    limits = engine.Limits(1, 0, 0, 0, 0)
    work = engine.Engine(workshop.matrix, limits, jobs=1, slots=None, board=status.Board(io.StringIO()))
    work._sort([cell])
    assert theirs and not work.failed
    theirs.release()
    work._watch()
    assert not work.failed and [one.id for one in work._queue] == [cell.id]


def test_killed_at_random_moments_each_cell_is_trained_once(tmp_path: Path) -> None:
    chance = random.Random(7)
    workshop = Workshop(tmp_path / "kilter")
    workshop.behaves(sgd="0.05", adam="0.05")
    asked = few(("sgd", "adam"), seeds="0:3", JOBS=2)
    killed = 0
    for moment in range(8):
        again = planned(workshop.root)
        driver = workshop.starts("continue", JOBS=2) if again else workshop.starts("test_matrix", **asked)
        while moment and not planned(workshop.root):  # on a busy machine all could come before there is a matrix
            time.sleep(0.02)
        time.sleep(chance.uniform(0.2, 1.6))
        killed += kill(driver, trainers=moment % 3 != 2)  # each third time they are left as orphans
    last = workshop.runs("continue", JOBS=2)
    assert last.returncode == 0, last.stdout + last.stderr
    assert killed > 0 and [steps_of(run) for run in workshop.cells] == [[*range(STEPS)]] * 6
    calm = Workshop(tmp_path / "calm")
    assert calm.runs("test_matrix", **asked).returncode == 0
    assert [run.result for run in calm.cells] == [run.result for run in workshop.cells]


def test_an_orphan_is_waited_for_and_never_joined(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path / "kilter")
    workshop.behaves(sgd="0.4")
    driver = workshop.starts("test_matrix", **few(["sgd"], seeds="0"))
    until(lambda: planned(workshop.root) and unit.last_event(workshop.cells[0], "start"))
    kill(driver, trainers=False)
    done = workshop.runs("continue")
    assert done.returncode == 0 and "has it" in done.stdout and "by another process" in done.stdout, done.stdout
    (run,) = workshop.cells
    assert [event["event"] for event in run.events].count("start") == 1 and steps_of(run) == [*range(STEPS)]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_at_thirty_moments_lenet5_has_the_same_results_bit_for_bit(tmp_path: Path) -> None:
    chance = random.Random(3)
    calm, wild = cloned_to(tmp_path / "calm"), cloned_to(tmp_path / "wild")
    subprocess.run(["make", VENV, "test_matrix", *SMALL, "JOBS=2"], cwd=calm, check=True)
    for moment in range(MOMENTS):
        words = ["continue"] if planned(wild) else ["test_matrix", *SMALL]
        driver = subprocess.Popen(["make", VENV, *words, "JOBS=2"], cwd=wild)
        time.sleep(chance.uniform(0.5, 9.0))
        assert driver.poll() is None, f"done after {moment} moments: more cells are needed"
        kill(driver, trainers=moment % 3 != 2)
    subprocess.run(["make", VENV, "continue", "JOBS=2"], cwd=wild, check=True)
    for one, other in zip(_runs(calm), _runs(wild), strict=True):
        assert _curve(one) == _curve(other) and _outcome(one) == _outcome(other)
        steps = [(line.step, name) for line in lines.read(other.path) for name in line.values]
        assert len(steps) == len(set(steps))


def _runs(root: Path) -> list[RunFolder]:
    matrix = find(root / "runs", "")
    return [matrix.run(cell) for cell in matrix.cells]


def _curve(run: RunFolder) -> list[tuple[int, str, object]]:
    return [
        (line.step, name, value)
        for line in lines.read(run.path)
        for name, value in sorted(line.values.items())
        if not name.endswith(TIMED)
    ]


def _outcome(run: RunFolder) -> dict[str, object]:
    return {name: value for name, value in (run.result or {}).items() if not name.endswith((*TIMED, "_mib"))}
