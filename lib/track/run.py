"""One run, logged everywhere: a journal on disk always, and every tracker that is on.

`log` appends one line to the journal and returns; that is all that training pays. The trackers read the journal in
processes of their own (see sidecar.py), so that none of them can stop, slow or kill training.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lib import files
from lib.errors import Refused
from lib.journal import environment, folder, lines, secrets
from lib.track import settings, sidecar, worker

NEWS_EVERY_S = 1.0
PATIENCE_S = 2.0  # of the user, before the wait for the trackers is explained
LONGEST_REASON = 500  # characters
GRACE_S = 5.0  # on top of the trackers' time, for the sidecar to end those that hang


class Run:
    """The run whose folder is `store`, while it trains. Use it as a context: leaving it drains the trackers."""

    def __init__(self, store: folder.RunFolder, trackers: settings.Settings) -> None:
        self.store = store
        self._lock = store.lock
        if not self._lock.take():
            raise Refused(f"{store.path}: process {self._lock.holder} trains this run. Wait for it, or end it first")
        self.journal = lines.Journal(store.path / lines.NAME)
        self._timeout_s = trackers.tracker_exit_timeout_s
        self._names = self._available(trackers)
        self._told = {name: len(events_of(store, name)) for name in self._names}
        self._sidecar: subprocess.Popen[bytes] | None = None
        self._restarted = False
        self._asked = 0.0  # when `news` last looked
        self.looks: dict[str, str] = {}  # tracker -> how the user looks at this run there

    @classmethod
    def create(
        cls, runs: Path, project: str, name: str, *, texts: Mapping[str, str], trackers: settings.Settings
    ) -> Run:
        """A new run in `runs/<project>/<name>` (`-2`, … when that is taken), with `texts` by file name in it."""
        store = folder.RunFolder.create(runs, project, name)
        for file, text in texts.items():
            files.write_whole(store.path / file, text)
        environment.record(store.path)
        return cls(store, trackers)

    def __enter__(self) -> Self:
        self.store.record("start", pid=os.getpid(), host=socket.gethostname(), command=sys.argv)
        self._start_sidecar()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            status = "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
            self.store.record("end", status=status, why=secrets.scrubbed(f"{kind.__name__}: {error}")[:LONGEST_REASON])
        self.journal.close()
        self._lock.free()
        self._drain()

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Log `values` (name -> number, text, one-element tensor or nested mapping) at the optimizer step `step`."""
        self.journal.append(values, int(step))

    def rewind(self, step: int) -> None:
        """Training goes on from a checkpoint at `step`: what was logged at later steps is void, in every tracker."""
        self.journal.rewind(step)
        self.store.record("resume", step=step)

    def finish(self, result: Mapping[str, Any]) -> None:
        """The run is done, with `result`: from here on its state is `finished`."""
        self.journal.flush()
        self.store.record("end", status="finished")
        folder.write_result(self.store.path, result)

    def interrupted(self, why: str) -> None:
        """The run stops here and can be continued from its last checkpoint."""
        self.store.record("end", status="interrupted", why=why)

    def news(self) -> Iterator[str]:
        """What the trackers have to say since the last call: where to look, and warnings, each once.

        It looks at most once a second, so that it may be called at each step.
        """
        now = time.monotonic()
        if now - self._asked < NEWS_EVERY_S:
            return
        self._asked = now
        if self._sidecar is not None and self._sidecar.poll() is not None:
            yield self._revive()
        yield from self._reports()

    def _reports(self) -> Iterator[str]:
        for name in self._names:
            events = events_of(self.store, name)
            for event in events[self._told[name] :]:
                if look := event.get("look") or event.get("todo"):
                    self.looks[name] = look
                if line := told(self.store, name, event):
                    yield line
            self._told[name] = len(events)

    def _start_sidecar(self) -> None:
        if self._names:
            self._sidecar = sidecar.start(self.store, self._names, self._timeout_s)

    def _revive(self) -> str:
        """The sidecar has died while training goes on: another one takes over, once."""
        assert self._sidecar is not None and self._sidecar.stdin is not None
        status = self._sidecar.returncode
        self._sidecar.stdin.close()
        self._sidecar = None
        if self._restarted:
            return f"warning: the trackers' sidecar ended again; the rest is kept: {sync_command(self.store)}"
        self._restarted = True
        self._start_sidecar()
        return f"warning: the trackers' sidecar ended with status {status}; another one takes over"

    def _available(self, trackers: settings.Settings) -> list[str]:
        """The trackers that are on and installed; one line for each that is not."""
        wanted = trackers.enabled()
        settings.write(self.store.trackers, wanted)
        for name in wanted:
            if pip := settings.missing(name):
                print(f"warning: {name} is on but not installed ({pip}); its points are kept", file=sys.stderr)
        return [name for name in wanted if not settings.missing(name)]

    def _drain(self) -> None:
        """Let the trackers take what is left; at most their time, and never when the user presses Ctrl-C again."""
        if self._sidecar is not None and self._sidecar.stdin is not None:
            self._sidecar.stdin.close()
            began = time.monotonic()
            waiting = False
            with contextlib.suppress(KeyboardInterrupt), _interruptible():
                while self._sidecar.poll() is None and time.monotonic() < began + self._timeout_s + GRACE_S:
                    if not waiting and time.monotonic() > began + PATIENCE_S:
                        waiting = True
                        names = ", ".join(self._names)
                        print(
                            f"waiting for {names}: at most {self._timeout_s} s; Ctrl-C leaves them to it",
                            file=sys.stderr,
                        )
                    time.sleep(0.05)
        for line in self._reports():
            print(line, file=sys.stderr)
        size = lines.whole_size(self.store.path / lines.NAME)
        behind = [name for name in self._names if worker.offset_of(self.store, name) < size]
        if behind:
            print(f"{', '.join(behind)}: not all is sent yet. {sync_command(self.store)}", file=sys.stderr)


def sync_command(store: folder.RunFolder) -> str:
    """What sends the rest of the run, as it can be pasted."""
    return f"make tracker-sync RUN={shlex.quote(f'{store.project}/{store.name}')}"


def events_of(store: folder.RunFolder, tracker: str) -> list[dict[str, Any]]:
    """What the tracker's processes have reported of this run, from its first attempt on."""
    return files.read_lines(store.trackers / f"{tracker}.jsonl")


def told(store: folder.RunFolder, tracker: str, event: Mapping[str, Any]) -> str:
    """What a report of the tracker means to the user while the run goes on: a line, or ""."""
    match event["event"]:
        case "started":
            return f"{tracker}: {event['look']}"
        case "failed":
            return f"warning: {tracker}: {event['why']}; the rest is kept: {sync_command(store)}"
    return ""


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Inside it Ctrl-C raises KeyboardInterrupt, whatever the training loop had set."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class NullRun:
    """What the processes other than rank 0 hold: it takes everything and does nothing."""

    def __init__(self, path: Path) -> None:
        self.store = folder.RunFolder(path)

    def log(self, values: Mapping[str, Any], step: int) -> None: ...

    def rewind(self, step: int) -> None: ...

    def finish(self, result: Mapping[str, Any]) -> None: ...

    def interrupted(self, why: str) -> None: ...

    def news(self) -> Iterator[str]:
        return iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...
