"""The sidecar: one process per run that supervises one process per tracker and outlives the trainer to drain them.

`python -m lib.track.sidecar FOLDER TIMEOUT_S LIMITS NAME…`. Its standard input is a pipe from the trainer: when a
line comes or it ends, the trainer has finished or died, and the trackers get TIMEOUT_S seconds to take what is left.
`make tracker-sync` lets go of that pipe at once: it replays.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from lib.files import append_line
from lib.journal import secrets
from lib.journal.folder import RunFolder
from lib.options import ROOT
from lib.track.state import State

POLL_S = 0.2
KILL_S = 2.0  # until a process that is killed is gone
LOG_BYTES = 1 << 20  # of what a client prints
READ_BYTES = 1 << 20  # of it at each look: one that floods waits for us
PIECE_BYTES = 1 << 16  # what a pipe holds
LONGEST_LINE = 1000  # characters of what a client prints
NOT_FOR_CLIENTS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_", "TORCHELASTIC_")


@dataclass(frozen=True)
class Limits:
    """How long [s] a call of a client may take, and how long a broken tracker is left alone."""

    start: float = 180.0  # W&B gives up by itself after 127, Trackio after 41; MLflow makes a new database in 10
    log: float = 60.0  # Trackio waits 30 for a locked database
    finish: float = 60.0  # Trackio waits 30 for its sender; ClearML looks through the repository for 12
    retry: tuple[float, ...] = (2.0, 10.0, 60.0, 300.0)  # then 300 again and again: it costs a start each time

    def of(self, phase: str) -> float:
        """The limit of the call `start`, `log` or `finish`; none while it is idle or waits for its lock."""
        return float(asdict(self).get(phase, float("inf")))


LIMITS = Limits()


def environment() -> dict[str, str]:
    """This environment without the distributed job's variables, without its GPUs, and with Kilter importable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_FOR_CLIENTS)}
    paths = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(paths)}


def start(folder: RunFolder, names: list[str], timeout_s: float, limits: Limits = LIMITS) -> subprocess.Popen[bytes]:
    """Start the sidecar of the run in `folder` for the trackers `names`; see `let_go`."""
    told = [str(folder.path.resolve()), str(timeout_s), json.dumps(asdict(limits)), *names]
    command = [sys.executable, "-m", "lib.track.sidecar", *told]
    with (folder.trackers / "sidecar.log").open("ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment(), cwd=ROOT, start_new_session=True
        )


def let_go(process: subprocess.Popen[bytes]) -> None:
    """Let the sidecar finish. It is told: a child that the trainer has forked would keep its end of the pipe open."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):  # it is gone
        os.write(process.stdin.fileno(), b"\n")
    process.stdin.close()


class Ear:
    """The whole lines that a process writes into a pipe, read without waiting for it."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._rest = b""
        os.set_blocking(pipe.fileno(), False)

    def lines(self) -> list[str]:
        data = self._rest
        with contextlib.suppress(BlockingIOError):
            while len(data) < READ_BYTES and (piece := os.read(self._pipe.fileno(), PIECE_BYTES)):
                data += piece
        *whole, self._rest = data.split(b"\n")
        if len(self._rest) > PIECE_BYTES:
            whole, self._rest = [*whole, self._rest], b""
        return [line.decode(errors="replace") for line in whole]

    def close(self) -> None:
        self._pipe.close()


class Process:
    """One life of a tracker's worker."""

    def __init__(self, folder: RunFolder, name: str) -> None:
        command = [sys.executable, "-u", "-m", "lib.track.worker", str(folder.path), name]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._stdin = self._process.stdin
        self._reports, self._output = Ear(self._process.stdout), Ear(self._process.stderr)
        self._log = folder.trackers / f"{name}.log"
        self.phase = "start"
        self._since = time.monotonic()

    def events(self) -> Iterator[dict[str, Any]]:
        """What it has reported since the last call; what it has printed goes to its log."""
        self._keep(self._output.lines())
        for line in self._reports.lines():
            try:
                said = json.loads(line)
            except ValueError:
                said = None
            if not isinstance(said, dict):  # a client has found our pipe
                continue
            if phase := said.get("phase"):
                self.phase, self._since = phase, time.monotonic()
            yield said

    def overdue(self, limits: Limits) -> bool:
        return time.monotonic() - self._since > limits.of(self.phase)

    def ended(self) -> bool:
        """Whether it has. It is not reaped by that, so that its number stays its own."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def let_go(self) -> None:
        """Tell it to take what is left and to finish."""
        with contextlib.suppress(OSError):
            self._stdin.close()

    def end(self) -> str:
        """End it and what it has started; how it ended."""
        code: int | None = None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # the kernel waits for a file server
            code = self._process.wait(KILL_S)
        self.let_go()
        self._keep(self._output.lines())  # its last words
        self._reports.close()
        self._output.close()
        if code is None:
            return "can't be killed"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"

    def _keep(self, lines: list[str]) -> None:
        if not lines:
            return
        with contextlib.suppress(OSError), self._log.open("a+", encoding="utf-8") as log:
            log.writelines(f"{secrets.scrubbed(line[:LONGEST_LINE])}\n" for line in lines)
            if log.tell() > LOG_BYTES:
                log.truncate(LOG_BYTES // 2)  # how it began, and from here on the newest


class Supervised:
    """One tracker: its worker is started, ended when it hangs, and started again after a while when it broke."""

    def __init__(self, folder: RunFolder, name: str, limits: Limits) -> None:
        self._folder = folder
        self._name = name
        self._limits = limits
        self._process: Process | None = None
        self._due = 0.0  # when the next worker may start
        self._failures = 0  # since it worked last
        self._reached = 0  # [bytes] of the journal, at the most, when it broke
        self._starts_left: int | None = None  # once the trainer has let go
        self.done = False

    def look(self) -> None:
        """Do what is due."""
        if self._process is None:
            if time.monotonic() >= self._due and not self.done:
                self._start()
            return
        ended, process = self._process.ended(), self._process
        for event in process.events():
            self._heed(event)
        if self._process is None:
            return
        if ended:
            self._broke(f"its process {self._end()} in {process.phase}")
        elif process.overdue(self._limits):
            self._broke(f"hung in {process.phase} for {self._limits.of(process.phase):g} s")

    def let_go(self) -> None:
        """The trainer has ended: take what is left. Who is broken now is tried once more, at once."""
        self._due, self._starts_left = 0.0, 1
        if self._process is not None:
            self._process.let_go()

    def give_up(self, why: str) -> None:
        if self._process is not None:
            self._broke(f"{why}, {self._process.phase}")

    def _start(self) -> None:
        if self._starts_left is not None:
            self._starts_left -= 1
        try:
            self._process = Process(self._folder, self._name)
        except OSError as problem:  # no memory, no process to be had
            self._broke(f"can't be started: {problem}")
            return
        if self._starts_left is not None:
            self._process.let_go()

    def _heed(self, said: dict[str, Any]) -> None:
        match said.get("event"):
            case "failed":
                self._broke(said["why"])
            case "finished":
                self._works()
                self._record(**said)
                self._end()
                self.done = True
            case None:
                if said.get("phase") == "idle" and self._failures and self._offset() > self._reached:
                    self._works()
            case _:
                self._record(**said)

    def _works(self) -> None:
        if self._failures:
            self._record(event="recovered")
        self._failures = 0

    def _broke(self, why: str) -> None:
        """End its process, and try again later. `again` says that the user has been told of this break."""
        self._end()
        self._record(event="failed", why=why, again=self._failures > 0)
        self._reached = max(self._reached, self._offset())
        waits = self._limits.retry
        self._due = time.monotonic() + waits[min(self._failures, len(waits) - 1)]
        self._failures += 1
        if self._starts_left is not None:
            self._due, self.done = 0.0, self._starts_left == 0

    def _end(self) -> str:
        """End its process, once: a number that is reaped may be another process's. How it ended; "" without one."""
        process, self._process = self._process, None
        return process.end() if process else ""

    def _offset(self) -> int:
        return State.of(self._folder, self._name).offset

    def _record(self, **event: Any) -> None:
        with contextlib.suppress(OSError):  # a full disk
            append_line(self._folder.trackers / f"{self._name}.jsonl", event)


class Sidecar:
    """The trackers of one run."""

    def __init__(self, folder: RunFolder, names: list[str], limits: Limits) -> None:
        self._trackers = [Supervised(folder, name, limits) for name in names]

    def watch(self) -> None:
        """Until the trainer lets go of its end of our standard input, or is gone."""
        parent = os.getppid()
        while True:
            for tracker in self._trackers:
                tracker.look()
            if select.select([sys.stdin], [], [], POLL_S)[0] or os.getppid() != parent:
                return

    def drain(self, timeout_s: float) -> None:
        """Let everyone take what is left, at most `timeout_s` seconds; end those who are not done then."""
        until = time.monotonic() + timeout_s
        for tracker in self._trackers:
            tracker.let_go()
        while not all(tracker.done for tracker in self._trackers) and time.monotonic() < until:
            for tracker in self._trackers:
                tracker.look()
            time.sleep(POLL_S / 4)
        for tracker in self._trackers:
            if not tracker.done:
                tracker.give_up(f"not done in {timeout_s:g} s")


def main() -> int:
    os.nice(10)
    folder, timeout_s, limits = RunFolder(Path(sys.argv[1])), float(sys.argv[2]), json.loads(sys.argv[3])
    sidecar = Sidecar(folder, sys.argv[4:], Limits(**limits))
    sidecar.watch()
    sidecar.drain(timeout_s)
    return 0


if __name__ == "__main__":
    sys.exit(main())
