"""Replay: the trackers of a run that has ended take what they have not taken yet, as in training."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

from lib.errors import Refused
from lib.journal import folder, lines
from lib.track import settings, sidecar, worker
from lib.track.run import events_of, told

SAY_EVERY_S = 2.0
PATIENCE_S = 3600.0  # a cloud may be slow; Ctrl-C stops the waiting, not the sending


def main(run: str, runs: Path) -> int:
    """Send the points of `run` to its trackers; the exit status is 1 when one of them did not take all.

    Raises:
        Refused: no such run, it is still being trained, or no tracker was on.
    """
    store = folder.find(runs, run)
    if holder := store.lock.holder:
        raise Refused(f"RUN={run}: process {holder} still trains it and sends as it goes")
    names = list(settings.read(store.trackers))
    if not names:
        raise Refused(f"RUN={run}: no tracker was on. make trackio-test shows that one works; TRACKER=… switches it on")
    if absent := [f"{name} is not installed ({pip})" for name in names if (pip := settings.missing(name))]:
        raise Refused(f"RUN={run}: {', '.join(absent)}")
    before = {name: len(events_of(store, name)) for name in names}
    size = lines.whole_size(store.path / lines.NAME)
    process = sidecar.start(store, names, PATIENCE_S)
    assert process.stdin is not None
    process.stdin.close()
    while process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SAY_EVERY_S)
        shares = {name: worker.offset_of(store, name) * 100 // max(1, size) for name in names}
        print("sending   " + ", ".join(f"{name} {share} %" for name, share in shares.items()), file=sys.stderr)
    complete = True
    for name in names:
        for event in events_of(store, name)[before[name] :]:
            if line := told(store, name, event) or event.get("todo"):
                print(line, file=sys.stderr)
        complete &= worker.offset_of(store, name) >= size
        print(f"{name}: {worker.offset_of(store, name)} of {size} bytes of the journal taken")
    return 0 if complete else 1
