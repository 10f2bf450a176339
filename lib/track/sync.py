"""Replay: the trackers of runs that have ended take what they have not taken yet, as in training."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lib.errors import Refused
from lib.files import shown
from lib.journal import folder
from lib.track import settings, sidecar, state
from lib.track.run import events_of, told

SAY_EVERY_S = 5.0  # without a terminal
LOOK_EVERY_S = 0.2
PATIENCE_S = 3600.0  # with one run: a cloud may be slow. Ctrl-C ends it before
FORMAT = "{percentage:3.0f}% {bar} {elapsed}<{remaining}  {desc}"

Names = Mapping[str, Mapping[str, Any]]  # tracker -> what it is told


def main(run: str, runs: Path, *, trackers: Names | None = None, dry_run: bool = False) -> int:
    """Send what `run`, or each run below `runs`, has left; the exit status is 1 when a tracker did not take all.

    It goes to the trackers that were on, or to `trackers`, which are told what is given here where they were not on.
    A dry run only lists what would go.

    Raises:
        Refused: no such run, it is still being trained, or no tracker was on.
    """
    replays = [Replay(store, trackers, runs) for store in (_named(run, runs) if run else _ended(runs))]
    if run and not any(replay.wanted for replay in replays):
        raise Refused(f"RUN={run}: no tracker was on. TRACKER=… sends it to that one")
    absent = {name: pip for replay in replays for name, pip in replay.absent.items()}
    for name, pip in absent.items():
        print(f"warning: {name}: {pip}; its points are kept", file=sys.stderr)
    if not any(replay.behind for replay in replays):
        print("nothing is left to send")
    complete = True
    for replay in replays:
        complete &= replay.listed() if dry_run else replay.sent()
    return 0 if complete else 1


def _named(run: str, runs: Path) -> Iterator[folder.RunFolder]:
    """The run that the user means, and those of the job's other processes."""
    for store in folder.find(runs, run).processes:
        if holder := store.lock.holder:
            raise Refused(f"RUN={run}: process {holder} still trains it and sends as it goes")
        yield store


def _ended(runs: Path) -> Iterator[folder.RunFolder]:
    for path in sorted(runs.glob("*/*/config.json")):
        for store in folder.RunFolder(path.parent).processes:
            if holder := store.lock.holder:
                print(f"skipped   {shown(store.path, runs)}: process {holder} trains it and sends as it goes")
            else:
                yield store


class Replay:
    """What the run in `store` has left for its trackers, or for others."""

    def __init__(self, store: folder.RunFolder, trackers: Names | None, runs: Path) -> None:
        self._store = store
        self._name = shown(store.path.resolve(), runs.resolve())
        was_on = settings.read(store.trackers)
        called = next(({"name": on["name"], "group": on["group"]} for on in was_on.values() if "name" in on), {})
        added = {name: {**options, **called} for name, options in (trackers or was_on).items()}
        self.wanted = {name: was_on.get(name, options) for name, options in added.items()}
        self.behind = [name for name in self.wanted if state.behind(store, name)]
        missing = {name: settings.missing(name, self.wanted[name]) for name in self.behind}
        self.absent = {name: pip for name, pip in missing.items() if pip}

    def listed(self) -> bool:
        """Say what would go; True."""
        for name in self.behind:
            print(f"would send  {self._name}  {name}: {state.lacking(self._store, name)}")
        return True

    def sent(self) -> bool:
        """Send it and say what went; False when something is left."""
        names = [name for name in self.behind if name not in self.absent]
        if names:
            if added := {name: self.wanted[name] for name in names if name not in settings.read(self._store.trackers)}:
                settings.write(self._store.trackers, added)
            lacked = {name: state.points_left(self._store, name) for name in names}
            self._send(names)
            for name, count in lacked.items():
                if state.behind(self._store, name):
                    print(f"left      {self._name}  {name}: {state.lacking(self._store, name)}")
                else:
                    print(f"sent      {self._name}  {name}: {count} points")
        return not any(state.behind(self._store, name) for name in self.behind)

    def _send(self, names: list[str]) -> None:
        before = {name: len(events_of(self._store, name)) for name in names}
        process = sidecar.start(self._store, names, PATIENCE_S)
        sidecar.let_go(process)
        try:
            self._watch(process, names)
        finally:  # also at Ctrl-C: its workers end with it, and the next call goes on where they were
            process.terminate()
            process.wait()
        for name in names:
            for event in events_of(self._store, name)[before[name] :]:
                todo = event.get("todo")
                if line := f"{name}: {todo}" if todo else told(name, event):
                    print(line, file=sys.stderr)

    def _watch(self, process: subprocess.Popen[bytes], names: list[str]) -> None:
        """Show how far it is until the sidecar ends."""
        begin = {name: state.State.of(self._store, name).stored for name in names}
        total = sum(state.size_of(self._store) - offset for offset in begin.values())
        spoke = time.monotonic()
        with tqdm(total=total, file=sys.stderr, disable=None, leave=False, bar_format=FORMAT, desc=self._name) as bar:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_EVERY_S)
                taken = sum(state.State.of(self._store, name).offset - begin[name] for name in names)
                bar.update(max(0, taken) - bar.n)
                if bar.disable and time.monotonic() - spoke > SAY_EVERY_S:
                    spoke = time.monotonic()
                    print(f"sending   {self._name}: {100 * max(0, taken) // max(1, total)} %", file=sys.stderr)
