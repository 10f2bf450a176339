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
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lib import files
from lib.errors import Refused
from lib.journal import environment, folder, lines, secrets
from lib.track import settings, sidecar, state
from lib.track.media import Kept, Media
from lib.track.native import NOTHING, Alone, Natives, Nothing

NEWS_EVERY_S = 1.0
REVIVE_EVERY_S = 60.0  # a machine that kills each sidecar is not to be worn out by us
PATIENCE_S = 2.0  # of the user, before the wait for the trackers is explained
LONGEST_REASON = 500  # characters
GRACE_S = 5.0  # on top of the trackers' time, for the sidecar to end those that hang


class Run(Kept):
    """The run whose folder is `store`, while it trains. Use it as a context: leaving it drains the trackers.

    `called` is its name in the trackers, where that is not the folder's: several runs of one job are one group there.
    """

    limits = sidecar.LIMITS

    def __init__(self, store: folder.RunFolder, trackers: settings.Settings, *, called: str = "") -> None:
        self.store = store
        self.called = called
        self._lock = store.lock
        if not self._lock.take():
            raise Refused(f"{store.path}: process {self._lock.holder} trains this run. Wait for it, or end it first")
        self.journal = lines.Journal(store.path / lines.NAME, _fetch)
        self._timeout_s = trackers.tracker_exit_timeout_s
        self._names = self._available(trackers)
        self._told = {name: len(events_of(store, name)) for name in self._names}
        self._sidecar: subprocess.Popen[bytes] | None = None
        self._revived: float | None = None  # when the sidecar was last started again
        self._highest = self.journal.highest
        self._asked = 0.0  # when `news` last looked
        self.looks: dict[str, str] = {}  # tracker -> how the user looks at this run there
        self._natives = Natives(store)

    @classmethod
    def create(
        cls, runs: Path, project: str, name: str, *, texts: Mapping[str, str], trackers: settings.Settings,
        called: str = "",
    ) -> Run:  # fmt: skip
        """A new run in `runs/<project>/<name>` (`-2`, … when that is taken), with `texts` by file name in it."""
        store = folder.RunFolder.create(runs, project, name)
        store.keep(texts)
        environment.record(store.path)
        return cls(store, trackers, called=called)

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
        self._natives.close(failed=kind is not None)
        self._drain()

    def log(
        self,
        values: Mapping[str, Any],
        step: int | None = None,
        *,
        trackers: Sequence[str] = (),
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Log `values` (name -> number, text, one-element tensor or nested mapping) at the optimizer step `step`.

        Without a step it is one more than the highest so far. `trackers` names those that it is for (none: all that
        are on); `options` are keyword arguments of each tracker's own log call.
        """
        step = self._highest + 1 if step is None else int(step)
        if step > self._highest:
            self._highest = step
        if trackers or options:
            self.journal.append(values, step, to=trackers, options=options)
        else:
            self.journal.append(values, step)

    def get_tracker(self, name: str, *, unwrap: bool = False) -> Any:
        """The tracker `name` alone: what is logged there goes to no other. Where it is not on: false, and does nothing.

        With `unwrap` its own object (a wandb.Run, a SummaryWriter, …) in this process, which TRACKER_NATIVE declares.
        It writes a run of its own, `<name>-native`, and training waits for it; not declared, it is false, too.
        """
        if name not in settings.read(self.store.trackers):
            return NOTHING
        return self._natives.get(name) if unwrap else Alone(self, name)

    def rewind(self, step: int) -> None:
        """Training goes on from a checkpoint at `step`: what was logged at later steps is void, in every tracker."""
        self.journal.rewind(step)
        self.store.record("resume", step=step)

    def flush(self) -> None:
        """What was logged is on disk when this returns, also values that were still on an accelerator."""
        self.journal.flush()

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
        if self._revived is None or now > self._revived + REVIVE_EVERY_S:
            yield from self._revive()
        yield from self._reports()

    def _reports(self) -> Iterator[str]:
        for name in self._names:
            events = events_of(self.store, name)
            for event in events[self._told[name] :]:
                known = event["event"] == "started" and self.looks.get(name) == event["look"]
                if look := event.get("look") or event.get("todo"):
                    self.looks[name] = look
                if not known and (line := told(name, event)):
                    yield line
            self._told[name] = len(events)

    def _start_sidecar(self) -> None:
        if self._names:
            try:
                self._sidecar = sidecar.start(self.store, self._names, self._timeout_s, self.limits)
            except OSError as problem:  # no memory, no process, a full disk: training goes on
                print(f"warning: no tracker's process can be started ({problem}); points are kept", file=sys.stderr)

    def _revive(self) -> Iterator[str]:
        """When the sidecar has died another one takes over, which goes on where each tracker is."""
        if self._sidecar is None or self._sidecar.poll() is None:
            return
        assert self._sidecar.stdin is not None
        self._sidecar.stdin.close()
        if self._revived is None:
            yield f"warning: the trackers' sidecar ended with status {self._sidecar.returncode}; another one takes over"
        self._revived = time.monotonic()
        self._start_sidecar()

    def _available(self, trackers: settings.Settings) -> list[str]:
        """The trackers that are on and installed; one line for each that is not."""
        wanted = trackers.enabled()
        if self.called:
            group = trackers.tracker_group or self.store.job.name
            wanted = {name: {**told, "name": self.called, "group": group} for name, told in wanted.items()}
        settings.write(self.store.trackers, wanted)
        absent = {name: pip for name, told in wanted.items() if (pip := settings.missing(name, told))}
        for name, pip in absent.items():
            print(f"warning: {name} is on but not installed ({pip}); its points are kept", file=sys.stderr)
        return [name for name in wanted if name not in absent]

    def _drain(self) -> None:
        """Let the trackers take what is left; at most their time, and never when the user presses Ctrl-C again."""
        for line in self._revive():
            print(line, file=sys.stderr)
        if self._sidecar is not None:
            sidecar.let_go(self._sidecar)
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
        if behind := [name for name in self._names if state.behind(self.store, name)]:
            left = ", ".join(f"{name} lacks {state.lacking(self.store, name)}" for name in behind)
            print(f"warning: {left}. {sync_command(self.store)}", file=sys.stderr)


def _fetch(values: list[Any]) -> lines.Copy:
    """The values of an accelerator, on their way here."""
    from lib.track import device  # such a value is torch's; who has none does without

    return device.fetch(values)


def sync_command(store: folder.RunFolder) -> str:
    """What sends the rest of the run, as it can be pasted."""
    return f"make tracker-sync RUN={shlex.quote(f'{store.project}/{store.job.name}')}"


def events_of(store: folder.RunFolder, tracker: str) -> list[dict[str, Any]]:
    """What the tracker's processes have reported of this run, from its first attempt on."""
    return files.read_lines(store.trackers / f"{tracker}.jsonl")


def told(tracker: str, event: Mapping[str, Any]) -> str:
    """What a report of the tracker means to the user while the run goes on: a line, or ""."""
    match event["event"]:
        case "started":
            return f"{tracker}: {event['look']}"
        case "linked":
            return f"{tracker}: can't take back what it has; from the rewind on the run is …-r{event['part']} there"
        case "failed" if not event.get("again"):
            return f"warning: {tracker}: {event['why']}; its points are kept, and it is tried again"
        case "recovered":
            return f"{tracker}: works again, and has what it missed"
    return ""


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Inside it Ctrl-C raises KeyboardInterrupt, whatever the training loop had set."""
    if threading.current_thread() is not threading.main_thread():  # nobody else may set a handler, or gets Ctrl-C
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class NullRun(Media):
    """What the processes that do not log hold: it takes everything and does nothing."""

    called = ""

    def __init__(self, path: Path) -> None:
        self.store = folder.RunFolder(path)

    def log(self, values: Mapping[str, Any], step: int | None = None, **_: Any) -> None: ...

    def get_tracker(self, name: str, *, unwrap: bool = False) -> Nothing:
        return NOTHING

    def rewind(self, step: int) -> None: ...

    def flush(self) -> None: ...

    def finish(self, result: Mapping[str, Any]) -> None: ...

    def interrupted(self, why: str) -> None: ...

    def news(self) -> Iterator[str]:
        return iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...
