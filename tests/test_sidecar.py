"""A tracker that breaks, in whatever way: only its own process feels it, it is tried again, and nothing is lost."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from planting import (
    ALL,
    NAMES,
    SHORT,
    Faults,
    create,
    plant,
    processes_of,
    stored,
    trackio_database,
    trackio_rows,
    until,
)  # fmt: skip

from lib.journal import folder
from lib.track import settings, sidecar, state, sync
from lib.track.run import events_of, told
from lib.track.settings import Settings
from lib.track.sidecar import Limits

TRACKIO = Settings(60, enable_trackio=True)
STEPS = 30
WHY = {
    "raises": "ConnectionError: planted",
    "full": "OSError: [Errno 28] No space left on device",
    "hangs": "hung in {} for {:g} s",
    "spins": "hung in {} for {:g} s",
    "exits": "its process ended with status 7 in {}",
    "leaves": "SystemExit: 0",
    "dies": "its process was killed by SIGKILL in {}",
}
# Run by run: two trackers break, the third one must not notice.
SOME: Faults = {
    "a": {"trackio": ("start", "raises"), "wandb": ("log", "hangs")},
    "b": {"trackio": ("log", "spins"), "tensorboard": ("finish", "exits")},
    "c": {"wandb": ("finish", "hangs"), "tensorboard": ("log", "leaves")},
    "d": {"trackio": ("finish", "raises"), "wandb": ("start", "dies")},
}
REST: Faults = {
    f"{method}-{kind}-{healthy}": {name: (method, kind) for name in NAMES if name != healthy}
    for method in ("start", "log", "finish")
    for kind in WHY
    if (method, kind) not in {("start", "hangs"), ("start", "spins")}  # these have a test of their own
    for healthy in (NAMES if kind in ("raises", "hangs", "exits") else ("tensorboard",))
}


def trained(tmp_path: Path, name: str, trackers: Settings = ALL) -> folder.RunFolder:
    """A run of STEPS steps that ended well."""
    with create(tmp_path, trackers, name) as run:
        for step in range(STEPS):
            run.log({"loss": float(step)}, step)
        run.finish({})
    return run.store


def warnings(store: folder.RunFolder, tracker: str) -> list[str]:
    lines = [told(tracker, event) for event in events_of(store, tracker)]
    return [line for line in lines if line.startswith("warning")]


@pytest.mark.parametrize("faults", [SOME, pytest.param(REST, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_a_tracker_that_breaks_is_told_of_once_hurts_no_one_and_loses_nothing(
    tmp_path: Path, planted: Path, faults: Faults
) -> None:
    plant(planted, faults)
    with ThreadPoolExecutor(4) as several:
        stores = list(several.map(lambda name: trained(tmp_path, name), faults))
    for store in stores:
        for name in NAMES:
            if fault := faults[store.name].get(name):
                why = WHY[fault[1]].format(fault[0], SHORT.of(fault[0]))
                said = f"warning: {name}: {why}; its points are kept, and it is tried again"
                assert warnings(store, name) == [said], (store.name, name)
                assert state.behind(store, name)
            else:
                assert stored(store, name) == list(range(STEPS)), (store.name, name)
        assert not processes_of(store)
    planted.unlink()
    assert sync.main("", tmp_path / "runs") == 0
    for store in stores:
        for name in NAMES:
            assert stored(store, name) == list(range(STEPS)), (store.name, name)


def test_a_tracker_that_hangs_at_its_start_is_ended(tmp_path: Path, planted: Path) -> None:
    plant(planted, {"run": {"tensorboard": ("start", "spins")}})
    run = create(tmp_path, Settings(3, enable_tensorboard=True))
    run.limits = Limits(start=4.0, retry=(600.0,))
    with run:
        until(lambda: warnings(run.store, "tensorboard"))
        assert "hung in start for 4 s" in warnings(run.store, "tensorboard")[0]
        assert not processes_of(run.store, "lib.track.worker")
        began = time.monotonic()
    assert time.monotonic() - began < 3 + 5


@pytest.mark.parametrize(("kind", "names"), [("raises", ["trackio"]), ("full", ["wandb", "tensorboard"])])
def test_a_tracker_that_works_again_has_what_it_missed_and_says_so_once(
    tmp_path: Path, planted: Path, kind: str, names: list[str]
) -> None:
    (down := tmp_path / "down").touch()
    plant(planted, {"run": dict.fromkeys(names, ("log", kind))}, while_there=down)
    on = Settings(60, **{f"enable_{name}": True for name in names})
    with create(tmp_path, on) as run:
        for step in range(STEPS):
            run.log({"loss": float(step)}, step)
        until(lambda: all(len(events_of(run.store, name)) > 1 for name in names))  # more than one try
        down.unlink()
        until(lambda: all("recovered" in str(events_of(run.store, name)) for name in names))
        said = list(run.news())
        run.log({"loss": 0.0}, STEPS)
        run.finish({})
    for name in names:
        assert [line for line in said if line.startswith((f"warning: {name}", f"{name}: works again"))] == [
            f"warning: {name}: {WHY[kind]}; its points are kept, and it is tried again",
            f"{name}: works again, and has what it missed",
        ]
        assert stored(run.store, name) == list(range(STEPS + 1))


def test_a_broken_tracker_is_left_alone_longer_and_longer(tmp_path: Path, planted: Path) -> None:
    plant(planted, {"run": {"tensorboard": ("start", "raises")}})
    run = create(tmp_path, Settings(60, enable_tensorboard=True))
    run.limits = Limits(retry=(0.1, 1.5, 600.0))
    with run:
        until(lambda: len(events_of(run.store, "tensorboard")) == 3)
        times = [event["time"] for event in events_of(run.store, "tensorboard")]
        time.sleep(2)
        assert len(events_of(run.store, "tensorboard")) == 3
        began = time.monotonic()
    assert times[2] - times[1] > 1.5
    assert len(events_of(run.store, "tensorboard")) == 4  # one last try, at once
    assert time.monotonic() - began < 20


def test_a_client_that_floods_or_lingers_harms_neither_the_disk_nor_the_end(tmp_path: Path, planted: Path) -> None:
    faults: Faults = {"run": {"trackio": ("finish", "lingers"), "tensorboard": ("start", "floods")}}
    plant(planted, faults)
    began = time.monotonic()
    store = trained(tmp_path, "run", Settings(60, enable_trackio=True, enable_tensorboard=True))
    assert time.monotonic() - began < 60
    assert (store.trackers / "tensorboard.log").stat().st_size <= sidecar.LOG_BYTES
    for name in ("trackio", "tensorboard"):
        assert stored(store, name) == list(range(STEPS))
        assert warnings(store, name) == []
    assert not processes_of(store)


@pytest.mark.parametrize("seconds", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_a_locked_database_costs_no_point(tmp_path: Path, seconds: int) -> None:
    """Trackio waits 30 s for it; then the call raises and is made again."""
    run = create(tmp_path, TRACKIO)
    run.limits = Limits(retry=(0.5,))
    with run:
        run.log({"loss": 0.0}, 0)
        until(lambda: state.State.of(run.store, "trackio").offset)
        with sqlite3.connect(trackio_database(run.store), isolation_level=None) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            for step in range(1, STEPS):
                run.log({"loss": float(step)}, step)
            time.sleep(seconds)
            connection.execute("ROLLBACK")
        connection.close()
        run.finish({})
    assert trackio_rows(run.store) == list(range(STEPS))


def test_a_worker_that_hangs_dies_with_its_sidecar_and_another_one_takes_over(tmp_path: Path, planted: Path) -> None:
    (down := tmp_path / "down").touch()
    plant(planted, {"run": {"trackio": ("log", "hangs")}}, while_there=down)
    run = create(tmp_path, TRACKIO)
    run.limits = Limits()
    with run:
        run.log({"loss": 0.0}, 0)
        until(lambda: (run.store.trackers / "trackio.json").exists())
        time.sleep(1)
        (supervisor,) = processes_of(run.store, "lib.track.sidecar")
        os.kill(supervisor, signal.SIGKILL)
        until(lambda: not processes_of(run.store, "lib.track.worker"), 5)
        down.unlink()
        run.finish({})
    assert trackio_rows(run.store) == [0]


def test_a_full_disk_costs_no_point(tmp_path: Path) -> None:
    (disk := tmp_path / "runs").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        with create(tmp_path) as run:
            for step in range(STEPS):
                run.log({"loss": float(step)}, step)
            until(lambda: all(state.State.of(run.store, name).offset for name in NAMES))
            with pytest.raises(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
                while True:
                    ballast.write(bytes(1 << 12))
            for step in range(STEPS, 2 * STEPS):
                run.log({"loss": float(step)}, step)
                time.sleep(0.05)
            (disk / "ballast").unlink()
            for step in range(2 * STEPS, 3 * STEPS):
                run.log({"loss": float(step)}, step)
            run.finish({})
        assert sync.main("", disk) == 0
        for name in NAMES:
            assert stored(run.store, name) == list(range(3 * STEPS)), name
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_rewind_that_a_tracker_cannot_take_back_goes_on_in_a_linked_run(tmp_path: Path, planted: Path) -> None:
    plant(planted, {"run": {"trackio": ("withdraws", "")}})
    with create(tmp_path, TRACKIO) as run:
        for step in range(70):
            run.log({"loss": float(step)}, step)
        run.interrupted("SIGTERM")
    with type(run)(run.store, TRACKIO) as again:
        again.rewind(50)
        for step in range(51, 80):
            again.log({"loss": step + 0.5}, step)
        until(lambda: state.State.of(run.store, "trackio").highest == 79)
        again.rewind(79)  # nothing is void
        again.log({"loss": 80.5}, 80)
        until(lambda: state.State.of(run.store, "trackio").highest == 80)
        again.rewind(60)
        again.log({"loss": 61.5}, 61)
        again.finish({})
    assert stored(run.store, "trackio") == list(range(70))
    assert stored(run.store, "trackio", part=2) == list(range(51, 81))
    assert stored(run.store, "trackio", part=3) == [61]
    assert not state.behind(run.store, "trackio")


def test_a_child_that_the_trainer_has_forked_does_not_keep_the_trackers_waiting(tmp_path: Path) -> None:
    on = Settings(60, enable_tensorboard=True)
    store = folder.RunFolder.create(tmp_path / "runs", "project", "run")
    settings.write(store.trackers, on.enabled())
    process = sidecar.start(store, list(on.enabled()), 60)
    assert process.stdin
    held = os.dup(process.stdin.fileno())  # as a data loader's worker that lives on
    try:
        sidecar.let_go(process)
        assert process.wait(50) == 0
    finally:
        os.close(held)


def test_a_run_may_end_in_a_thread(tmp_path: Path) -> None:
    thread = threading.Thread(target=trained, args=(tmp_path, "run", Settings(60, enable_tensorboard=True)))
    thread.start()
    thread.join()
    (path,) = tmp_path.glob("runs/*/run")
    assert stored(folder.RunFolder(path), "tensorboard") == list(range(STEPS))


def test_the_limits_are_longer_than_what_the_clients_were_seen_to_need() -> None:
    assert sidecar.LIMITS.of("start") > 127 and sidecar.LIMITS.of("log") > 30 and sidecar.LIMITS.of("finish") > 30
    assert SHORT.of("idle") == sidecar.LIMITS.of("waiting for process 7 host") == float("inf")
