"""The unit of work: one cell, its run folder, one trainer at a time, done when its result is there.

Everything about a cell is in its folder. The file `cell.lock` is held by the driver that starts the trainer and, since
the trainer inherits it, by the trainer for as long as that lives, whoever killed the driver: no two drivers ever have
one cell. What happened is in events.jsonl: `cell` (what it is), `trial` (a start) and `verdict` (how that ended).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from lib.files import Lock, read_object
from lib.journal.folder import RunFolder
from lib.launch.processes import LAST_S, together
from lib.matrix import source, verdict
from lib.matrix.plan import Matrix
from lib.matrix.points import Cell

LOCK = "cell.lock"
GRACE_S = 60.0  # for a last checkpoint, after SIGTERM
NOT_FOR_A_TRAINER = ("MAKE", "MFLAGS", "KCONF_CLI", "GOAL")  # what make leaves in the environment


class State(NamedTuple):
    """Where a cell is: `done`, `running`, `failed` or `left` (nobody has it, and it has no result)."""

    name: str
    kind: str = ""  # of a failure: the verdict's
    why: str = ""


class Held(Lock):
    """A lock that a child process has, too, when it is given `fd`: free when both have let it go."""

    @property
    def fd(self) -> int:
        assert self._file is not None
        return self._file.fileno()


def state(run: RunFolder) -> State:
    """What the cell's folder says. Nothing is stored: after SIGKILL no status file would be right."""
    if run.result is not None:
        return State("done")
    if is_held(run):
        return State("running")
    last = last_event(run, "trial", "verdict")
    if last.get("event") == "verdict" and last["kind"] not in ("stopped", "done"):
        return State("failed", last["kind"], last["why"])
    return State("left")


def is_held(run: RunFolder) -> bool:
    """Whether a driver has the cell, or a trainer lives, also one that was started by hand."""
    return Lock(run.path / LOCK).holder is not None or run.lock.holder is not None


def end_orphan(run: RunFolder, why: verdict.Verdict, *, limit_s: float, grace_s: float = GRACE_S) -> None:
    """Ask a trainer that has outlived its driver, and `limit_s`, to stop; `grace_s` later it is killed.

    While the cell is held and its driver is gone one of the trainer's processes lives, and their group has its number.
    """
    trial, last = last_event(run, "trial"), last_event(run, "trial", "verdict")
    driver = (Lock(run.path / LOCK).holder or "").split()
    if not trial or driver[1:] != [socket.gethostname()] or _lives(int(driver[0])):
        return
    age_s, asked = time.time() - trial["time"], last["event"] == "verdict"
    if not asked and age_s > limit_s:
        run.record("verdict", number=trial["number"], status=-signal.SIGTERM, kind=why.kind, why=why.why,
                   seconds=round(age_s, 3))  # fmt: skip
        _signal(trial["pid"], signal.SIGTERM)
    elif asked and last["kind"] == why.kind and time.time() - last["time"] > _patience_s(trial, grace_s):
        _kill(run, trial)  # a verdict of another kind is that of the trial before


def count(run: RunFolder, name: str) -> int:
    """How many events of that name there are."""
    return sum(event.get("event") == name for event in run.events)


def last_event(run: RunFolder, *names: str) -> dict[str, Any]:
    """The last event of these names; empty when there is none."""
    return next((event for event in reversed(run.events) if event.get("event") in names), {})


def put_aside(run: RunFolder) -> Path:
    """Move the folder to where no table of results finds it, so that the cell is begun anew; nothing of it is lost."""
    number = 1
    while (place := run.path.parent / "before" / f"{run.name}-{number}").exists():
        number += 1
    place.parent.mkdir(exist_ok=True)
    run.path.rename(place)
    return place


def seconds(run: RunFolder, result: Mapping[str, Any]) -> float:
    """How long the cell took, from what its trials say, or the training alone."""
    spent = sum(float(event["seconds"]) for event in run.events if event.get("event") == "verdict")
    return max(spent, float(result.get("total_time_s") or 0.0))


class Trial:
    """One start of a cell's trainer, from the moment that the cell is ours to the verdict."""

    def __init__(self, matrix: Matrix, cell: Cell, lock: Held) -> None:
        self.matrix, self.cell = matrix, cell
        self.run = matrix.run(cell)
        self.gpus: tuple[str, ...] = ()
        self.began = time.monotonic()
        self.number = count(self.run, "trial") + 1
        self.ended_by_us: verdict.Verdict | None = None
        self._lock = lock
        self._oom_kills = verdict.oom_kills()
        self._process: subprocess.Popen[bytes] | None = None
        self._asked_at: float | None = None

    @classmethod
    def claim(cls, matrix: Matrix, cell: Cell) -> Trial | None:
        """The cell is ours, with a complete folder; None when somebody else has it."""
        run = matrix.run(cell)
        while True:
            run.path.mkdir(parents=True, exist_ok=True)
            lock = Held(run.path / LOCK)
            if not lock.take(0.0):
                return None
            if run.lock.holder is not None:
                lock.free()
                return None
            if run.result is None and _code_of(run) not in ("", matrix.code):
                put_aside(run)  # other code began it: what this one would make of it is neither's
                lock.free()
                continue
            _complete(matrix, cell)
            return cls(matrix, cell, lock)

    @property
    def output(self) -> Path:
        return self.run.path / f"trial-{self.number}.log"

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.began

    def release(self) -> None:
        """Give the cell back, not started."""
        self._lock.free()

    def start(self, gpus: Sequence[str], *, processes: int, threads: int) -> None:
        """Start the trainer in a session of its own: Ctrl-C and the end of the driver do not reach it."""
        self.gpus, self.began = tuple(gpus), time.monotonic()
        torchrun = ["-m", "torch.distributed.run", *together(processes)] if processes > 1 else []
        command = [sys.executable, *torchrun, *self.matrix.words(self.cell)]
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                command, cwd=self.matrix.source, env=self._environment(threads), stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, pass_fds=(self._lock.fd,), start_new_session=True,
            )  # fmt: skip
        self.run.record("trial", number=self.number, pid=self._process.pid, host=socket.gethostname(),
                        gpus=list(self.gpus), processes=processes, command=command)  # fmt: skip

    def wait(self) -> None:
        assert self._process is not None
        self._process.wait()

    def end(self, why: verdict.Verdict, *, at_once: bool = False) -> None:
        """Ask the trainer to stop, with a last checkpoint; one that has not in time is killed, all of it."""
        assert self._process is not None
        self.ended_by_us = why
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            _signal(self._process.pid, signal.SIGTERM)
        elif at_once or now - self._asked_at > _patience_s(last_event(self.run, "trial"), GRACE_S):
            _kill(self.run, last_event(self.run, "trial"))

    def settle(self) -> verdict.Verdict:
        """The verdict, recorded; the cell is free again."""
        assert self._process is not None and self._process.returncode is not None
        result = self.run.result
        found = verdict.of(
            self._process.returncode, verdict.tail(self.output), has_result=result is not None,
            corrupt=result is None and (self.run.path / "result.json").exists(),
            oom_killed=verdict.oom_kills() > self._oom_kills,
        )  # fmt: skip
        if self.ended_by_us and found.kind != "done":
            found = self.ended_by_us
        if self._process.returncode:
            _kill(self.run, last_event(self.run, "trial"))  # what it left would hold memory, or the cell
        self.run.record("verdict", number=self.number, status=self._process.returncode, kind=found.kind,
                        why=found.why, seconds=round(self.age_s, 3))  # fmt: skip
        self._lock.free()
        return found

    def _environment(self, threads: int) -> dict[str, str]:
        kept = {name: text for name, text in os.environ.items() if not name.startswith(NOT_FOR_A_TRAINER)}
        own = {"OMP_NUM_THREADS": str(threads)} if threads else {}
        return {**kept, **own, **({"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if self.gpus else {})}


def _patience_s(trial: Mapping[str, Any], grace_s: float) -> float:
    """Between asking and killing; on top of the time that torchrun gives its workers."""
    return grace_s + (LAST_S if trial["processes"] > 1 else 0)


def _kill(run: RunFolder, trial: Mapping[str, Any]) -> None:
    """End the trainer: its group, and torchrun's workers, each of which has a group of its own."""
    _signal(trial["pid"], signal.SIGKILL)
    for process in psutil.process_iter(["cmdline"]) if trial["processes"] > 1 else ():
        if (process.info["cmdline"] or [])[-2:] == ["--resume", str(run.path)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # they have just ended
        os.killpg(group, number)


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _complete(matrix: Matrix, cell: Cell) -> None:
    """Make the cell's folder complete. What is there stays, so that it can be made again after any interruption."""
    run = matrix.run(cell)
    run.trackers.mkdir(exist_ok=True)
    if read_object(run.path / "config.json") is not None:
        return
    run.record("created", id=uuid.uuid4().hex)
    run.record("cell", id=cell.id, axes=cell.axes, work=cell.work, code=matrix.code, matrix=matrix.path.name)
    texts = {**source.about(matrix.source), **matrix.texts(cell)}  # no secrets: the front end refuses them
    last = texts.pop("config.json")  # once it is there all are; nothing is synchronised, it can be made again
    for name, text in texts.items():
        (run.path / name).write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")
    fresh = run.path / f".config.json.{os.getpid()}.tmp"
    fresh.write_text(last, encoding="utf-8")
    fresh.replace(run.path / "config.json")


def _code_of(run: RunFolder) -> str:
    return str(last_event(run, "cell").get("code", ""))
