"""One tracker's process: reads the journal of a run from an offset of its own and feeds the client.

`python -m lib.track.worker FOLDER NAME`. It holds the lock of (run, tracker) while it lives and keeps there how far it
is. What it does and what happened goes to its standard output, a JSON object a line, for the sidecar (see sidecar.py);
what the client prints goes to standard error. When its standard input ends it takes what is left and finishes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from itertools import chain
from pathlib import Path

from lib.journal import lines as journal
from lib.journal import secrets
from lib.journal.folder import RunFolder
from lib.track import settings
from lib.track.client import Client, connect
from lib.track.state import State, behind
from lib.track.view import View

POLL_S = 0.2
BATCH_BYTES = 1 << 16  # about 500 lines: what a client takes in one call, and sends again when it dies in between
LEAST_FREE_BYTES = 1 << 20  # of the run's disk; W&B was seen to lose points on a full one without a word
LONGEST_REASON = 300  # characters
PR_SET_PDEATHSIG = 1

Batch = tuple[list[journal.Line], int]  # lines, and the offset after them
Report = Callable[..., None]  # keyword arguments are what the sidecar is told


class Worker:
    """Feeds the tracker `name` with the journal of the run in `folder`, each line that counts once."""

    def __init__(self, folder: RunFolder, name: str, report: Report) -> None:
        self._folder = folder
        self._name = name
        self._report = report
        self._options = settings.read(folder.trackers).get(name, {})
        self._state = State.of(folder, name)
        self._client: Client = connect(name, folder, part=self._state.part)
        self._view = View(name, self._client, self._options, folder.path)
        self._reader = journal.Reader(folder.path / journal.NAME)
        self.sent = 0

    def open(self) -> str:
        """Start the client and bring it up to date; how the user looks at the run."""
        state, client = self._state, self._client
        self._reader.offset = state.handed
        if client.withdraws and (client.rebuilds or self._contradicts(self._batches())):
            state.withdraw()
        elif client.rebuilds:
            state.repeat()
        look = self._start()
        self._send(self._batches(until=state.handed))  # the part as it was, before a rewind may end it
        self.pump()
        return look

    def pump(self) -> None:
        """Hand over what the journal has gained. A rewind that contradicts what was sent is brought in line first."""
        self._require_space()
        batches = self._batches()
        while self._contradicts(batches):
            self.finish(failed=False)
            if self._client.withdraws:
                self._state.withdraw()
            else:
                self._state.link()
                self._client = connect(self._name, self._folder, part=self._state.part)
                self._report(event="linked", part=self._state.part)
            self._start()
            batches = self._batches()
        self._send(batches)

    def drain(self) -> None:
        """Hand over all that is there."""
        before = -1
        while before != self._state.offset:
            before = self._state.offset
            self.pump()

    def finish(self, *, failed: bool) -> str:
        """Close the run in the tracker; what is left for the user to do, or ""."""
        self._report(phase="finish")
        todo = self._client.finish(failed=failed)
        self._require_space()
        self._state.closed = True
        self._save()
        return todo

    def _start(self) -> str:
        state = self._state
        state.closed, state.rebuilds = False, self._client.rebuilds
        self._save()
        self._report(phase="start")
        look = self._client.start(fresh=state.fresh or self._client.rebuilds)
        state.fresh = False
        self._save()
        self._view = View(self._name, self._client, self._options, self._folder.path, last=state.last)
        self._reader.offset = state.offset
        return look

    def _batches(self, until: int | None = None) -> list[Batch]:
        """What the journal has from here on (`until` that offset), in pieces that are handed over one by one."""
        found: list[Batch] = []
        before = -1
        while self._reader.offset not in (before, until):
            before = self._reader.offset
            lines = self._reader.read(BATCH_BYTES if until is None else min(BATCH_BYTES, until - before))
            if before != self._reader.offset:
                found.append((lines, self._reader.offset))
        return found

    def _contradicts(self, batches: list[Batch]) -> bool:
        """Whether they make void what was sent already."""
        rewinds = [line.rewind for lines, _ in batches for line in lines if line.rewind is not None]
        return min(rewinds, default=self._state.highest) < self._state.highest

    def _send(self, batches: list[Batch]) -> None:
        counts = {id(line) for line in journal.effective(chain.from_iterable(lines for lines, _ in batches))}
        for lines, end in batches:
            if seen := self._view.of(line for line in lines if id(line) in counts):
                self._report(phase="log")
                self._client.log(seen)
                self.sent += len(seen)
            self._state.sent(end, max((line.step for line in seen), default=-1))
            self._state.last = self._view.last
            self._save()
        self._report(phase="idle")

    def _save(self) -> None:
        self._state.save(self._folder, self._name)

    def _require_space(self) -> None:
        disk = os.statvfs(self._folder.path)
        if disk.f_bavail * disk.f_frsize < LEAST_FREE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _die_with_the_sidecar() -> None:
    """A worker that hangs while its sidecar is killed would keep the lock for ever: the kernel ends it, too."""
    with contextlib.suppress(OSError, AttributeError):  # Linux only; elsewhere its standard input ends
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _reporter() -> Report:
    """What writes to our standard output, which from here on is standard error for everyone else."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1, encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    before = ""

    def report(**said: object) -> None:
        nonlocal before
        line = json.dumps(said)
        if line != before or said.get("phase") == "log":  # each call has its own time
            before = line
            out.write(f"{line}\n")

    return report


def _feed(folder: RunFolder, name: str, report: Report) -> None:
    """Until standard input ends, and all is taken then."""
    lock = folder.lock_of(name)
    while not lock.take(patience_s=POLL_S):
        report(phase=f"waiting for process {lock.holder}")
    os.chdir(folder.path)  # what a client drops in its working directory belongs to the run
    if _let_go() and not behind(folder, name):
        report(event="finished", todo="", sent=0)  # another process has sent it all
        return
    report(phase="start")
    worker = Worker(folder, name, report)
    report(event="started", look=secrets.scrubbed(worker.open()))
    while not _let_go(POLL_S):
        worker.pump()
    worker.drain()
    todo = worker.finish(failed=folder.state() in ("failed", "killed"))
    report(event="finished", todo=secrets.scrubbed(todo), sent=worker.sent)


def _let_go(patience_s: float = 0.0) -> bool:
    return bool(select.select([sys.stdin], [], [], patience_s)[0])


def main() -> None:
    _die_with_the_sidecar()
    report = _reporter()
    try:
        _feed(RunFolder(Path(sys.argv[1])), sys.argv[2], report)
    except BaseException as problem:  # a foreign client may raise anything, SystemExit too; the journal keeps the rest
        why = secrets.scrubbed(f"{type(problem).__name__}: {problem}").splitlines()[0]
        print(traceback.format_exc(), file=sys.stderr, flush=True)
        report(event="failed", why=why[:LONGEST_REASON])
    os._exit(0)  # all is said and stored: a client's exit handler may hang


if __name__ == "__main__":
    main()
