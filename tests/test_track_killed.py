"""SIGKILL at random moments: every point that log() returned from is in every tracker once, after a sync."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from planting import NAMES, processes_of, stored, until

from lib.journal import folder, lines
from lib.options import ROOT
from lib.track import sync

TRAINER = """
import os, sys, time
from pathlib import Path
from lib.track.run import Run
from lib.track.settings import Settings
runs, name, steps, pause_s = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
on = Settings(60, enable_trackio=True, enable_wandb=True, enable_tensorboard=True)
with Run.create(runs, "killed-" + runs.parent.name, name, texts={"config.json": "{}"}, trackers=on) as run:
    print(run.store.path, flush=True)
    for step in range(steps):
        run.log({"loss": step * 0.1}, step)
        os.write(1, b"%d\\n" % step)
        list(run.news())
        time.sleep(pause_s)
    run.finish({})
"""
LONGEST_S = 5.0  # before the kill: the trackers start, take points, have taken them


def killed(runs: Path, name: str, *, whom: str, after_s: float, steps: int, pause_s: float) -> folder.RunFolder:
    """A run of which `whom` was killed; the steps that log() returned from are in its journal."""
    command = [sys.executable, "-c", TRAINER, str(runs), name, str(steps), str(pause_s)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        store = folder.RunFolder(Path(trainer.stdout.readline().strip()))
        time.sleep(after_s)
        victims = {"trainer": [trainer.pid], "sidecar": [], "both": [trainer.pid]}[whom]
        if whom != "trainer":
            victims += processes_of(store, "lib.track.sidecar")
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.kill(victim, signal.SIGKILL)
        returned = [int(word) for word in trainer.stdout.read().split()]
    assert [line.step for line in lines.read(store.path)][: len(returned)] == returned
    assert returned == list(range(steps)) if whom == "sidecar" else returned
    return store


def in_every_tracker_once(runs: Path, stores: list[folder.RunFolder]) -> None:
    for store in stores:
        until(lambda store=store: not processes_of(store))
    assert sync.main("", runs) == 0
    for store in stores:
        steps = [line.step for line in lines.read(store.path)]
        assert {name: stored(store, name) for name in NAMES} == dict.fromkeys(NAMES, steps), store.name


@pytest.mark.parametrize(
    ("moments", "whom"),
    [
        (2, "trainer"), (1, "sidecar"), (2, "both"),
        *(pytest.param(50, whom, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])
          for whom in ("trainer", "sidecar", "both")),
    ],
)  # fmt: skip
def test_after_a_kill_at_a_random_moment_and_a_sync_every_point_is_in_every_tracker_once(
    tmp_path: Path, moments: int, whom: str
) -> None:
    chance = random.Random(time.time_ns())

    def one(index: int) -> folder.RunFolder:
        after_s = chance.uniform(0, LONGEST_S)
        print(f"{index}: {whom} after {after_s:.3f} s")
        return killed(tmp_path / "runs", str(index), whom=whom, after_s=after_s, steps=600, pause_s=0.01)

    with ThreadPoolExecutor(3) as several:
        stores = list(several.map(one, range(moments)))
    in_every_tracker_once(tmp_path / "runs", stores)


@pytest.mark.parametrize("seconds", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_of_a_point_in_a_quarter_of_a_second_none_is_lost_to_a_kill(tmp_path: Path, seconds: int) -> None:
    store = killed(tmp_path / "runs", "slow", whom="both", after_s=seconds, steps=1000, pause_s=0.25)
    in_every_tracker_once(tmp_path / "runs", [store])
    assert len(lines.read(store.path)) >= seconds * 4 - 2
