"""The engine: beside good cells bad ones, two drivers, code edited in the middle, a machine with GPUs."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pexpect
import pyte
import pytest
from cloning import make
from matrices import STEPS, Workshop, alive, few, planned, steps_of
from planting import until

from lib.matrix import cell as unit
from lib.matrix import engine, source, status
from lib.matrix.cell import State, state
from lib.matrix.gpus import Slots

OPTIMIZERS = ("sgd", "adam", "adamw", "adamwadv", "adamwspam")


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path / "kilter clone")


def trials(cells: list) -> list[int]:  # type: ignore[type-arg]  # of run folders
    return [sum(event["event"] == "trial" for event in run.events) for run in cells]


def test_each_cell_is_trained_once_and_a_second_start_takes_them_all(workshop: Workshop) -> None:
    first = workshop.runs("test_matrix", **few(OPTIMIZERS[:2], JOBS=2))
    assert first.returncode == 0, first.stdout + first.stderr
    assert "cells     4 of" in first.stdout and [state(run) for run in workshop.cells] == [State("done")] * 4
    assert [steps_of(run) for run in workshop.cells] == [[*range(STEPS)]] * 4
    assert (workshop.matrix.path / "index.html").read_text() == "4 runs"
    again = workshop.runs("test-matrix", **few(OPTIMIZERS[:2], seeds="0,1,2"))
    assert again.returncode == 0 and "4 of 6 have a result already" in again.stdout, again.stdout
    assert trials(workshop.cells) == [1] * 6


def test_a_cells_line_can_be_pasted_and_its_folder_is_a_run(workshop: Workshop) -> None:
    said = workshop.runs("test_matrix", **few(["sgd"], seeds="3", MAX_ITERS=7)).stdout
    (run,) = workshop.cells
    line = next(line for line in said.splitlines() if line.startswith("$ "))
    assert line.endswith(f"--config runs/{run.project}/{run.name} --resume runs/{run.project}/{run.name}")
    values = run.configuration["values"]
    assert (values["OPTIMIZER"], values["SEED"], values["MAX_ITERS"]) == ("sgd", 3, 7)
    assert (values["TRACKER_PROJECT"], values["TRACKER_RUN_NAME"]) == (run.project, run.name)
    assert values["TRACKER_GROUP"] == workshop.matrix.path.name
    assert {"config.py", ".config", "environment.json"} <= {path.name for path in run.path.iterdir()}
    assert run.environment["packages"] and run.id


def test_bad_cells_fail_with_their_reason_and_the_good_ones_finish(workshop: Workshop) -> None:
    workshop.behaves(sgd="crash", adam="hang", adamw="killed", adamwadv="corrupt", adamwprune="memory")
    asked = few((*OPTIMIZERS, "adamwprune"), seeds="0", JOBS=2, MATRIX_TIMEOUT_S=2, MATRIX_RETRIES=1)
    started = workshop.starts("test_matrix", **asked)
    until(lambda: any(state(run).name == "running" for run in _cells(workshop) if "_adam_" in run.name))
    hung = next(run for run in workshop.cells if "_adam_" in run.name)
    until(lambda: unit.last_event(hung, "trial"))
    time.sleep(2.5)
    # it ignores SIGTERM, as a hanging trainer would; the engine kills it a minute later, which is too long for a test
    os.killpg(unit.last_event(hung, "trial")["pid"], signal.SIGKILL)
    assert started.wait(100) == 1, (workshop.root / "said").read_text()
    found = {run.configuration["values"]["OPTIMIZER"]: state(run) for run in workshop.cells}
    assert found == {
        "sgd": State("failed", "error", "ValueError: no such thing"),
        "adam": State("failed", "timeout", "ran for more than 2 s"),
        "adamw": State("failed", "killed", "ended by SIGKILL"),
        "adamwadv": State("failed", "result", "result.json can't be read"),
        "adamwspam": State("done"),
        "adamwprune": State("done"),  # out of memory beside another one, and tried again alone
    }
    said = (workshop.root / "said").read_text()
    assert "2 of 6 cells" in said and "ValueError: no such thing" in said
    tried = dict(zip(found, trials(workshop.cells), strict=True))
    assert tried == {"sgd": 1, "adam": 1, "adamw": 2, "adamwadv": 1, "adamwspam": 1, "adamwprune": 2}
    seen = workshop.runs("status")
    assert seen.returncode == 1 and "2 of 6 done, 4 failed" in seen.stdout, seen.stdout


def test_continue_trains_what_failed_and_rerun_what_it_is_told(workshop: Workshop) -> None:
    workshop.behaves(sgd="refuse")
    assert workshop.runs("test_matrix", **few(OPTIMIZERS[:2], seeds="0")).returncode == 1
    workshop.behaves()
    done = workshop.runs("continue")
    assert done.returncode == 0 and trials(workshop.cells) == [2, 1]
    again = workshop.runs("rerun", FILTER="OPTIMIZER=adam")
    assert again.returncode == 0 and "before/" in again.stdout
    assert trials(workshop.cells) == [2, 1] and len(list(workshop.matrix.project.glob("before/*_adam_*"))) == 1
    place = workshop.matrix.path.relative_to(workshop.root)
    assert f"matrix    {place}" in again.stdout and workshop.runs("status", MATRIX=place).returncode == 0
    code = workshop.matrix.source.rename(workshop.root / "gone")
    gone = workshop.runs("rerun", FILTER="OPTIMIZER=adam")
    assert gone.returncode == 2 and "code is gone" in gone.stderr and "aside" not in gone.stdout
    code.rename(workshop.matrix.source)
    nothing = workshop.runs("rerun")
    assert nothing.returncode == 2 and "FILTER" in nothing.stderr


def test_equal_failures_in_a_row_stop_the_matrix(workshop: Workshop) -> None:
    workshop.behaves(sgd="crash")
    done = workshop.runs("test_matrix", **few(["sgd"], seeds="0:6", MATRIX_BREAKER=3))
    assert done.returncode == 1 and sum(trials(workshop.cells)) == 3, done.stdout
    assert "3 cells in a row failed alike; 3 are left" in done.stdout


def test_a_trainer_that_is_killed_after_its_result_is_done_and_leaves_nothing_behind(workshop: Workshop) -> None:
    workshop.behaves(sgd="killed late")
    done = workshop.runs("test_matrix", **few(["sgd"], seeds="0"))
    assert done.returncode == 0 and trials(workshop.cells) == [1], done.stdout + done.stderr
    until(lambda: not alive(unit.last_event(workshop.cells[0], "helper")["pid"]))


def test_two_drivers_never_have_one_cell(workshop: Workshop) -> None:
    workshop.behaves(sgd="0.03", adam="0.03")
    asked = few(OPTIMIZERS[:2], seeds="0:3", JOBS=2)
    drivers = [workshop.starts("test_matrix", **asked) for _ in range(2)]
    assert [driver.wait(100) for driver in drivers] == [0, 0], (workshop.root / "said").read_text()
    assert trials(workshop.cells) == [1] * 6
    assert [steps_of(run) for run in workshop.cells] == [[*range(STEPS)]] * 6


def test_a_cell_that_is_killed_is_tried_again_by_one_driver_and_failed_for_none(workshop: Workshop) -> None:
    workshop.behaves(sgd="0.3")
    drivers = [workshop.starts("test_matrix", **few(["sgd"], seeds="0", MATRIX_RETRIES=1))]
    until(lambda: _cells(workshop) and unit.last_event(workshop.cells[0], "start"))
    drivers.append(workshop.starts("continue"))
    until(lambda: "has it" in (workshop.root / "said").read_text())
    os.kill(unit.last_event(workshop.cells[0], "start")["pid"], signal.SIGKILL)
    assert [driver.wait(100) for driver in drivers] == [0, 0], (workshop.root / "said").read_text()
    assert steps_of(workshop.cells[0]) == [*range(STEPS)] and trials(workshop.cells) == [2]


def test_an_orphan_has_no_more_time_than_it_would_have_had(workshop: Workshop) -> None:
    workshop.behaves(sgd="60")
    driver = workshop.starts("test_matrix", **few(["sgd"], seeds="0", MATRIX_TIMEOUT_S=3))
    until(lambda: _cells(workshop) and unit.last_event(workshop.cells[0], "start"))
    driver.kill()
    driver.wait()
    done = workshop.runs("continue")
    assert done.returncode == 1 and "wait " in done.stdout and "ran for more than 3 s" in done.stdout, done.stdout
    assert trials(workshop.cells) == [1] and not unit.is_held(workshop.cells[0])


def test_what_is_edited_meanwhile_changes_nothing(workshop: Workshop) -> None:
    workshop.behaves(sgd="0.03")
    driver = workshop.starts("test_matrix", **few(["sgd"], seeds="0:4"))
    until(lambda: _cells(workshop) and state(workshop.cells[0]).name == "running")
    (workshop.root / "lenet5" / "train.py").write_text("raise SystemExit('edited')")
    kconfig = workshop.root / "lib" / "optim" / "Kconfig"
    kconfig.write_text(kconfig.read_text().replace('default "0.05" if OPTIMIZER_SGD', 'default "0.5" if OPTIMIZER_SGD'))
    assert driver.wait(100) == 0, (workshop.root / "said").read_text()
    rates = {run.configuration["values"]["LEARNING_RATE"] for run in workshop.cells}
    assert rates == {0.05} and trials(workshop.cells) == [1] * 4


def test_a_cell_that_other_code_began_is_begun_anew(workshop: Workshop) -> None:
    workshop.behaves(sgd="killed", adam="0")
    asked = few(OPTIMIZERS[:2], seeds="0", MATRIX_RETRIES=0)
    assert workshop.runs("test_matrix", **asked).returncode == 1
    script = workshop.root / "lenet5" / "train.py"
    script.write_text(script.read_text() + "# edited\n")
    workshop.behaves()
    done = workshop.runs("test_matrix", **asked)
    assert done.returncode == 0 and "1 of 2 have a result already, 1 by other code" in done.stdout, done.stdout
    assert steps_of(workshop.cells[0]) == [*range(STEPS)] and trials(workshop.cells) == [1, 1]


def test_ctrl_c_ends_the_trainers_and_continue_goes_on(workshop: Workshop) -> None:
    workshop.behaves(sgd="0.1")
    driver = workshop.starts("test_matrix", **few(["sgd"], JOBS=2))
    until(lambda: sum(state(run).name == "running" for run in _cells(workshop)) == 2)
    until(lambda: all(unit.last_event(run, "start") for run in workshop.cells))
    pids = [unit.last_event(run, "trial")["pid"] for run in workshop.cells]
    driver.send_signal(signal.SIGINT)
    assert driver.wait(30) == 130
    assert not any(alive(pid) for pid in pids) and [state(run).name for run in workshop.cells] == ["left"] * 2
    assert workshop.runs("continue").returncode == 0
    assert [steps_of(run) for run in workshop.cells] == [[*range(STEPS)]] * 2


def test_a_dry_run_states_the_count_and_writes_nothing(workshop: Workshop) -> None:
    done = workshop.runs("test_matrix_dry_run", MATRIX_SEEDS="0:3")
    assert done.returncode == 0 and "cells     84 of 6 OPTIMIZER × 4 PRUNING" in done.stdout, done.stderr
    assert not (workshop.root / "runs").exists()
    one = workshop.runs("test_matrix_dry_run", OPTIMIZER="sgd", PRUNING="none", SEED="1")
    assert one.returncode == 0 and "\ncells     1 of 1 OPTIMIZER × 1 PRUNING" in one.stdout, one.stdout + one.stderr


def test_what_is_left_is_estimated_by_what_was_trained(workshop: Workshop) -> None:
    asked = few(["sgd"], seeds="0:3")
    assert workshop.runs("test_matrix", **asked, FILTER="SEED=0").returncode == 0
    result = workshop.cells[0].path / "result.json"
    result.write_text(result.read_text().replace('"total_time_s": 1.5', '"total_time_s": 3600'))
    for done in (workshop.runs("estimate", JOBS=2), workshop.runs("test_matrix_dry_run", **asked, JOBS=2)):
        told = done.stdout.splitlines()[-1]
        assert told == "estimate  2 to run, 1 done: 1 h 00 min with JOBS=2, 2.00 hours of one job", done.stderr
        assert done.returncode == 0
    shutil.rmtree(workshop.matrix.source)
    gone = workshop.runs("estimate")
    assert gone.returncode == 2 and "code is gone" in gone.stderr


def test_half_a_copy_of_the_code_that_a_killed_one_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("")
    place = source.freeze(tmp_path, tmp_path / "runs" / "lenet5")
    place.rename(place.with_name(f".{place.name}.{os.getpid()}.tmp"))
    assert source.freeze(tmp_path, tmp_path / "runs" / "lenet5") == place and (place / "train.py").exists()
    assert [path.name for path in place.parent.iterdir()] == [place.name]


@pytest.mark.parametrize(
    ("verb", "typed", "line"),
    [
        ("test_matrix", {"JOBS": "0"}, "JOBS=0: expected a number of cells"),
        ("test_matrix", {"MATRIX_OPTIMIZERS": "adamm"}, "OPTIMIZER=adamm: unknown value; did you mean adam?"),
        ("test_matrix", {"AXES": "SEDE=1"}, "no symbol to vary"),
        ("test_matrix", {"AXES": "BATCH_SIZE="}, "expected SYMBOL=value,value"),
        ("test_matrix", {"AXES": "BATCH_SIZE=16,32 BATCH_SIZE=64"}, "BATCH_SIZE is there twice"),
        ("test_matrix", {"OPTIMIZER": "adam", "MATRIX_OPTIMIZERS": "sgd"}, "Give OPTIMIZER once"),
        ("test_matrix", {"MATRIX_BASELINE": "OPTIMIZER=lion"}, "no cell is that"),
        ("test_matrix_dry_run", {"FILTER": "SEED=99"}, "FILTER=SEED=99: none of the 84 cells"),
        ("test_matrix", {"SEDE": "1"}, "did you mean"),
        ("continue", {"SEED": "1"}, "takes no symbols"),
        ("continue", {}, "no matrix below"),
        ("status", {"MATRIX": "none"}, "no such matrix"),
    ],
)
def test_a_slip_is_one_line_and_nothing_is_written(
    workshop: Workshop, verb: str, typed: dict[str, object], line: str
) -> None:
    done = workshop.runs(verb, **typed)
    assert done.returncode == 2 and line in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (workshop.root / "runs").exists()


def test_make_takes_the_name_of_a_matrix(workshop: Workshop) -> None:
    done = make(workshop.root, "continue", "MATRIX=none")
    assert done.returncode == 2 and "MATRIX=none: no such matrix" in done.stderr, done.stdout + done.stderr


def test_threads_are_shared_where_the_configuration_leaves_them_open(workshop: Workshop) -> None:
    for threads, expected in (("1", None), ("-1", str(max(1, len(os.sched_getaffinity(0)) // 2)))):
        words, environ = workshop.command(
            "test_matrix", **few(["sgd"], seeds=f"{threads}1".strip("-"), THREADS=threads, JOBS=2)
        )
        environ.pop("OMP_NUM_THREADS", None)
        subprocess.run(words, cwd=workshop.root, env=environ, check=True, capture_output=True)
        assert unit.last_event(workshop.cells[0], "start")["threads"] == expected


def test_each_cell_sees_its_own_gpu_alone(workshop: Workshop) -> None:
    workshop.behaves(sgd="0.05")
    assert workshop.runs("test_matrix", **few(["sgd"], seeds="0:6", FILTER="SEED=0")).returncode == 0
    limits = engine.Limits(1, 0, 0, 0, 0)
    slots = Slots(["GPU-a", "GPU-b"], 1, dict)
    screen = io.StringIO()
    work = engine.Engine(workshop.matrix, limits, jobs=4, slots=slots, board=status.Board(screen))
    assert work.run(workshop.matrix.cells) and work.taken == 1, screen.getvalue()
    spans: dict[str, list[tuple[float, float]]] = {"GPU-a": [], "GPU-b": []}
    for run in workshop.cells[1:]:
        told = unit.last_event(run, "start")
        assert [told["gpus"]] == unit.last_event(run, "trial")["gpus"]
        spans[told["gpus"]].append((told["time"], unit.last_event(run, "end")["time"]))
    for taken in map(sorted, spans.values()):
        assert len(taken) >= 2 and all(one[1] < other[0] for one, other in itertools.pairwise(taken))


def test_gpus_of_another_driver_are_held_from_the_start_of_its_trainer_and_given_back_once(workshop: Workshop) -> None:
    workshop.runs("test_matrix", **few(["sgd"], seeds="0:2", FILTER="SEED=1"))
    slots = Slots(["GPU-a"], 1, dict)
    limits = engine.Limits(1, 0, 0, 0, 0)
    work = engine.Engine(workshop.matrix, limits, jobs=2, slots=slots, board=status.Board(io.StringIO()))
    theirs = unit.Trial.claim(workshop.matrix, workshop.matrix.cells[0])  # claimed, and started later
    assert theirs
    work._sort(workshop.matrix.cells[:1])
    assert slots.take(1) == ("GPU-a",)
    slots.give(("GPU-a",))
    theirs.run.record("trial", number=1, pid=1, gpus=["GPU-a"])
    work._watch()
    assert slots.take(1) is None
    theirs.release()
    work._watch()
    assert [slots.take(1), slots.take(1)] == [("GPU-a",), None]


def test_a_driver_that_starts_nothing_keeps_no_cell_from_the_others(workshop: Workshop) -> None:
    workshop.runs("test_matrix", **few(["sgd"], seeds="0:3", FILTER="SEED=2"))
    work = engine.Engine(
        workshop.matrix, engine.Limits(1, 0, 0, 0, 0), jobs=1, slots=None, board=status.Board(io.StringIO())
    )
    theirs = unit.Trial.claim(workshop.matrix, workshop.matrix.cells[0])
    assert theirs
    work._sort(workshop.matrix.cells[:2])
    assert work._next()  # as while one of ours was running
    work._fill()
    ours = unit.Trial.claim(workshop.matrix, workshop.matrix.cells[1])
    assert ours
    for trial in (theirs, ours):
        trial.release()


def test_a_terminal_shows_a_bar_for_each_running_cell(workshop: Workshop) -> None:
    workshop.behaves(sgd="0.5")
    words, environ = workshop.command("test_matrix", **few(["sgd"], JOBS=2))
    screen = pyte.Screen(120, 30)
    stream = pyte.ByteStream(screen)
    driver = pexpect.spawn(words[0], words[1:], env=environ, cwd=str(workshop.root), dimensions=(30, 120))  # type: ignore[arg-type]
    seen: list[str] = []
    while driver.isalive() or seen[-1:] != ["end"]:
        try:
            stream.feed(driver.read_nonblocking(65536, timeout=0.2))
        except pexpect.TIMEOUT:
            continue
        except pexpect.EOF:
            seen.append("end")
            break
        seen.append("\n".join(screen.display))
    driver.close()
    bars = [text for text in seen if text.count("█") and text.count("_sgd_s0-") and "0 of 2 done" in text]
    assert bars and f"/{STEPS}" in bars[-1], seen[-3:]
    assert "█" not in seen[-2] and "[2/2]" in seen[-2] and driver.exitstatus == 0


# --- pieces ---


def _cells(workshop: Workshop) -> list:  # type: ignore[type-arg]  # of run folders
    """Those that are there by now."""
    return [run for run in workshop.cells if run.path.exists()] if planned(workshop.root) else []
