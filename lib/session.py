"""A training session: the run that this start creates or goes on with, its console kept, its end told to the user.

A run that reproduces another one says at its start what differs now, and at its end whether the curve is the same.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import torch

from lib import checkpoint, dist, names, reproduce
from lib.errors import Refused
from lib.files import shown
from lib.journal import console, folder
from lib.options import ROOT, Record
from lib.progress import describe
from lib.track.run import NullRun, Run
from lib.track.settings import Settings

RUNS = ROOT / "runs"
CURVES = "curves.png"
RANK = "rank-{}"  # what a process's own run is called in the trackers
SHOWN = 3  # differences that are named


@contextlib.contextmanager
def opened(record: Record, trackers: Settings, device: torch.device, *, data: str) -> Iterator[Run | NullRun]:
    """The run to train in, with the job's processes joined; rank 0 writes its folder, the others know where it is.

    `data` is the fingerprint of what it trains on. The trackers' processes start before the accelerator is touched.

    Raises:
        Refused: the run to go on with does not exist, is done, or is being trained.
        SystemExit: with status 1, when the run is done and has not reproduced the one that it should.
    """
    if dist.rank() != 0:
        with contextlib.ExitStack() as last, dist.joined(device):
            other = _of_rank(record, trackers, Path(dist.agreed(None)))
            last.enter_context(other)
            yield other
        return
    run = _run(record, trackers, data)
    with console.kept(run.store.path / "console.log"):
        with run, dist.joined(device):
            dist.agreed(str(run.store.path))
            run.store.record("data", sha256=data)
            run.store.record("machine", **_machine(device))
            print(f"run       {shown(run.store.path, ROOT)}  on {device}")
            if original := run.store.original:
                print("\n".join(reproduce.opening(original, run.store)))
            yield run
            if run.store.result is not None:
                from lib import plot  # its library takes a second to import

                plot.learning_curves(run.store.path, run.store.path / CURVES)
        _farewell(run)
        same = _compared(run.store)
    if not same:
        raise SystemExit(1)


def _run(record: Record, trackers: Settings, data: str) -> Run:
    called = "" if trackers.tracker_ranks == "main" else RANK.format(0)
    earlier = _earlier(record, data)
    if earlier:
        print(f"resume    {shown(earlier.path, ROOT)}  (RESUME=n starts anew)", file=sys.stderr)
        return Run(earlier, trackers, called=called)
    name = record.name or names.run_name(record.model, record.optimizer, datetime.now())
    run = Run.create(RUNS, record.project, name, texts=record.files, trackers=trackers, called=called)
    if record.reproduces:
        run.store.reproduces(folder.RunFolder(Path(record.reproduces)))
    return run


def _of_rank(record: Record, trackers: Settings, job: Path) -> Run | NullRun:
    """What a process other than the first logs into, as TRACKER_RANKS says (as in W&B's distributed example)."""
    strategy = trackers.tracker_ranks
    if strategy == "main" or (strategy == "node" and dist.local_rank() != 0):
        return NullRun(job)
    store = folder.RunFolder.of_rank(job, dist.rank())
    store.keep(record.files)
    return Run(store, trackers, called=RANK.format(dist.rank()))


def _earlier(record: Record, data: str) -> folder.RunFolder | None:
    """The run to go on with, if there is one."""
    if record.resume == "no":
        return None
    if record.resume == "auto":
        begun = folder.unfinished(RUNS, record.project, record.hash)
        if begun is None or begun.data in (None, data):
            return begun
        print(f"note: {shown(begun.path, ROOT)} is left alone: the data are others than it began with", file=sys.stderr)
        return None
    earlier = folder.find(RUNS, record.resume, asked_as="RESUME")
    if earlier.result is not None:
        raise Refused(f"{shown(earlier.path, ROOT)}: this run is finished. RESUME=n starts a new one")
    if earlier.data not in (None, data):
        raise Refused(f"{shown(earlier.path, ROOT)}: the data are others than it began with. RESUME=n starts a new run")
    theirs, ours = earlier.configuration, json.loads(record.files["config.json"])
    if theirs.get("provenance", {}).get("hash") != record.hash:
        changes = [
            f"{name}={value}, not {ours['values'].get(name)}"
            for name, value in theirs.get("values", {}).items()
            if value != ours["values"].get(name)
        ]
        what = "; ".join(changes[:SHOWN]) or "symbols that are new or gone"
        raise Refused(
            f"{shown(earlier.path, ROOT)}: its configuration is another one: {what}. RESUME=n starts a new run"
        )
    return earlier


def _farewell(run: Run) -> None:
    """The result and where everything lies; or, when training was stopped, how to go on."""
    store = run.store
    result = store.result
    if result is None:
        saved = checkpoint.found(store.checkpoints, "last")
        kept = f"what was trained is in {shown(saved[0], ROOT)}" if saved else "before the first checkpoint"
        print(f"stopped   {kept}")
        print(f"go on     make RESUME={shown(store.path, ROOT)}   (or just make, with the same configuration)")
        return
    told = {name: value for name, value in result.items() if isinstance(value, float) and not name.endswith("_mib")}
    print(f"done      {describe(told)}")
    best = "".join(f", {shown(path, store.path)}" for path in checkpoint.found(store.checkpoints, "best")[:1])
    print(f"folder    {shown(store.path, ROOT)}  ({CURVES}, journal.jsonl{best})")
    for tracker, look in run.looks.items():
        print(f"{tracker:<9} {look}")


def _compared(store: folder.RunFolder) -> bool:
    """False when the run is done and has not the curve of the one that it reproduces; says so, or that it has."""
    original = store.original
    if original is None or store.result is None:
        return True
    same, said = reproduce.verdict(original, store)
    print("\n".join(said))
    return same


def _machine(device: torch.device) -> dict[str, str | int]:
    """What decides in which order numbers are added: kind of device, instructions of the CPU, processes, threads."""
    cuda = device.type == "cuda"
    kind = torch.cuda.get_device_name(device) if cuda else torch.backends.cpu.get_cpu_capability()
    return {"device": f"{device.type} {kind}", "processes": dist.world(), "threads": torch.get_num_threads()}
