"""Faults planted in the real clients, and runs to plant them in: a tracker's process runs `infect` before all else."""

from __future__ import annotations

import atexit
import errno
import importlib
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lib.journal import folder
from lib.options import ROOT
from lib.track.client import connect
from lib.track.run import Run
from lib.track.settings import Settings
from lib.track.sidecar import Limits

NAMES = ("trackio", "wandb", "tensorboard")
ALL = Settings(60, enable_trackio=True, enable_wandb=True, enable_tensorboard=True)
CONFIG = {"config.json": json.dumps({"values": {"MODEL": "lenet5", "LEARNING_RATE": 0.004, "COMPILE": False}})}
SHORT = Limits(start=60.0, log=3.0, finish=4.0, retry=(0.5, 1.0))

# run -> tracker -> a method of the client, and what comes first: the name of one of KINDS (`raises:…` says that)
Faults = Mapping[str, Mapping[str, tuple[str, str]]]


def raises(text: str = "planted") -> None:
    raise ConnectionError(text)


def full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def hangs() -> None:
    time.sleep(600)


def spins() -> None:
    while True:
        pass


def exits() -> None:
    os._exit(7)


def leaves() -> None:
    sys.exit(0)


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def lingers() -> None:
    atexit.register(time.sleep, 600)


def floods() -> None:
    for _ in range(100):
        print("x" * 99_999)


KINDS: list[Callable[..., None]] = [raises, full, hangs, spins, exits, leaves, dies, lingers, floods]


def plant(file: Path, faults: Faults, *, while_there: Path | None = None) -> None:
    """Put them into `file`, which Python runs at its start; `while_there` is a file, and they end when it is gone."""
    told = json.dumps([faults, str(while_there) if while_there else None])
    file.write_text(
        f"import sys\nsys.path.append({str(ROOT / 'tests')!r})\nimport planting\nplanting.infect({told!r})\n"
    )


def infect(told: str) -> None:
    """Change the client's method in this process, if it is the worker of a run and a tracker with a fault."""
    faults, while_there = json.loads(told)
    run, tracker = Path(sys.orig_argv[-2]).name, sys.orig_argv[-1]
    if "lib.track.worker" not in sys.orig_argv or tracker not in faults.get(run, {}):
        return
    method, (kind, _, text) = faults[run][tracker][0], faults[run][tracker][1].partition(":")
    client = importlib.import_module(f"lib.track.to_{tracker}").Tracker
    if method == "withdraws":
        client.withdraws = property(lambda _: False, lambda *_: None)  # whatever the client sets itself
        return
    real = getattr(client, method)
    known = {fault.__name__: fault for fault in KINDS}

    def planted(self: object, *args: Any, **options: Any) -> Any:
        if while_there is None or Path(while_there).exists():
            known[kind](*filter(None, [text]))
        return real(self, *args, **options)

    setattr(client, method, planted)


def create(tmp_path: Path, trackers: Settings = ALL, name: str = "run") -> Run:
    run = Run.create(tmp_path / "runs", f"project-{tmp_path.name}", name, texts=CONFIG, trackers=trackers)
    run.limits = SHORT
    return run


def stored(store: folder.RunFolder, tracker: str, name: str = "loss", part: int = 1) -> list[int]:
    """The steps at which the tracker's own reader finds a value of `name`, one that is there twice twice."""
    return sorted(step for step, found, _ in connect(tracker, store, part=part).stored() if found == name)


def trackio_rows(store: folder.RunFolder) -> list[int]:
    """The steps of all rows that Trackio's database has of the run, repeated ones repeated."""
    with sqlite3.connect(trackio_database(store)) as connection:
        return sorted(
            step for (step,) in connection.execute("SELECT step FROM metrics WHERE run_name = ?", [store.name])
        )


def trackio_database(store: folder.RunFolder) -> Path:
    (database,) = Path(os.environ["TRACKIO_DIR"]).glob(f"{store.project}*.db")
    return database


def processes_of(store: folder.RunFolder, module: str = "") -> dict[int, str]:
    """Number and command line of the living processes that name the run's folder."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{store.path} " in command and module in command:
            found[int(path.parent.name)] = command
    return found


def until(condition: Callable[[], object], patience_s: float = 60) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)
