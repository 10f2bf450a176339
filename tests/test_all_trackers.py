"""Every tracker that is installed, on at once: nothing is lost, nothing is changed, and no kill costs a point."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from planting import processes_of, until

from lib.journal import folder, lines
from lib.names import CUSTOM, installed
from lib.options import ROOT
from lib.track import check, sync
from lib.track.run import Run
from lib.track.settings import PACKAGES, Settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default"),  # what a client does is not ours to mend
]
NAMES = [name for name, package in PACKAGES.items() if installed(package) and name != CUSTOM]
POINTS = 10_000
TRAINER = """
import sys, time
from pathlib import Path
from lib.track.run import Run
from lib.track.settings import Settings
on = Settings(300, **{f"enable_{name}": True for name in sys.argv[3:]})
with Run.create(Path(sys.argv[1]), "all", sys.argv[2], texts={"config.json": "{}"}, trackers=on) as run:
    print(run.store.path, flush=True)
    for step in range(100_000):
        run.log({"loss": step / 3, "rate": 1 / (step + 1)}, step)
        time.sleep(0.02)
"""


def compared(store: folder.RunFolder) -> dict[str, tuple[int, list[str]]]:
    """Tracker by tracker how many values it holds and what differs from the journal, by the tool's own reader."""
    found = {name: check.compare(name, store) for name in NAMES}
    return {name: (held, wrong[:3]) for name, (_, wrong, held) in found.items()}


def test_ten_thousand_points_are_in_every_tracker_equal_to_the_last_digit(tmp_path: Path) -> None:
    on: dict[str, Any] = {f"enable_{name}": True for name in NAMES}
    chance = random.Random(7)
    taken = []
    with Run.create(tmp_path, "all", "run", texts={"config.json": "{}"}, trackers=Settings(600, **on)) as run:
        for step in range(POINTS // 5):
            values = {f"value_{number}": chance.random() for number in range(5)}
            began = time.perf_counter()
            run.log(values, step)
            taken.append((time.perf_counter() - began) * 1e6)
        run.finish({})
    taken.sort()
    print(f"log() p50 {taken[len(taken) // 2]:.1f} us, p99 {taken[len(taken) * 99 // 100]:.1f} us")
    assert compared(run.store) == dict.fromkeys(NAMES, (POINTS, []))


def test_of_a_killed_run_every_point_is_in_every_tracker_after_a_sync(tmp_path: Path) -> None:
    chance = random.Random(time.time_ns())
    for number in range(3):
        after_s = chance.uniform(0, 30)
        print(f"killed after {after_s:.2f} s")
        command = [sys.executable, "-c", TRAINER, str(tmp_path), str(number), *NAMES]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as trainer:
            assert trainer.stdout is not None
            store = folder.RunFolder(Path(trainer.stdout.readline().strip()))
            time.sleep(after_s)
            for victim in [trainer.pid, *processes_of(store, "lib.track.sidecar")]:
                subprocess.run(["kill", "-9", str(victim)], check=False)
        until(lambda store=store: not processes_of(store))
        assert sync.main(str(store.path), tmp_path) == 0
        points = 2 * len(lines.read(store.path))
        assert compared(store) == dict.fromkeys(NAMES, (points, []))
