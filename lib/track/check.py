"""Does a tracker work here? Made-up curves go the way of every run, then the tool's own reader says what it holds."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from lib.errors import Refused
from lib.journal import folder, lines
from lib.options import Record
from lib.track import settings
from lib.track.client import connect
from lib.track.run import Run
from lib.track.state import State
from lib.track.view import View

STEPS = 200
SHOWN = 5  # differences that are printed


def main(tracker: str, store: folder.RunFolder) -> int:
    """Compare what `tracker` holds of a run, of each process that logs, with the journal; 1 when a point differs.

    Raises:
        Refused: the tracker is not installed or was not on in that run, or its store can't be read.
    """
    _require(tracker)
    return max(_compared(tracker, run) for run in store.processes)


def _compared(tracker: str, store: folder.RunFolder) -> int:
    sent, wrong, found = compare(tracker, store)
    for difference in wrong[:SHOWN]:
        print(f"differs   {difference}")
    if len(wrong) > SHOWN:
        print(f"          … and {len(wrong) - SHOWN} more")
    print(f"{tracker}: {sent} points sent, {found} read back" + (f", {len(wrong)} differ" if wrong else ""))
    print(f"run       {store.path}")
    return 1 if wrong or found != sent else 0


def send(tracker: str, runs: Path, record: Record, on: settings.Settings) -> folder.RunFolder:
    """Log curves in a run of their own, with `tracker` on. Raises Refused when it is not installed."""
    _require(tracker)
    with Run.create(runs, record.project, record.name, texts=record.files, trackers=on) as run:
        for step in range(STEPS):
            run.log(curves(step), step)
        run.finish({"steps": STEPS})
    for look in run.looks.values():
        print(f"look      {look}")
    return run.store


def _require(tracker: str) -> None:
    if pip := settings.missing(tracker):
        raise Refused(f"{tracker} is not installed. {pip}")


def curves(step: int) -> dict[str, float]:
    """What a training run would log at `step`: losses that fall with noise, a warm-up and a cosine, a speed."""
    noise = random.Random(step)
    loss = 2.3 * math.exp(-step / 60) + 0.1
    return {
        "train_loss": loss + noise.gauss(0, 0.03),
        "val_loss": loss + 0.05 + noise.gauss(0, 0.01),
        "val_accuracy": 1 - 0.9 * math.exp(-step / 40),
        "learning_rate": 1e-3 * min(step / 20, (1 + math.cos(math.pi * step / STEPS)) / 2),
        "grad_norm": 1 + abs(noise.gauss(0, 0.4)),
        "images_per_second": 12000 + noise.gauss(0, 300),
    }


def compare(tracker: str, store: folder.RunFolder) -> tuple[int, list[str], int]:
    """How many values `tracker` should hold of the run's journal, what differs, and how many it holds.

    Where it could not take a rewind back, it is asked for the linked run that goes on from there.
    """
    options = settings.read(store.trackers).get(tracker)
    if options is None:
        raise Refused(f"RUN={store.name}: {tracker} was not on in this run")
    state = State.of(store, tracker)
    client = connect(tracker, store, part=state.part)
    logged = lines.effective(lines.Reader(store.path / lines.NAME, state.begin).rest())
    sent = points_of(View(tracker, client, options, store.path).of(logged), client.repeats)
    try:
        points = client.stored()
    except Exception as problem:  # a foreign reader may raise anything when its file is damaged or gone
        raise Refused(f"{tracker}: what it stored can't be read ({type(problem).__name__}: {problem})") from problem
    found: dict[tuple[int, str], list[lines.Value]] = {}
    for step, name, value in points:
        found.setdefault((step, name), []).append(value)
    wrong = []
    for key, values in sent.items():
        held = found.get(key, [])
        if len(held) > len(values):
            wrong.append(f"{_said(key)}: is there {len(held)} times, not {len(values)}")
        elif len(held) < len(values) or not all(map(_same, values, held)):
            wrong.append(f"{_said(key)}: {_list(values)}, not {_list(held) or 'there'}")
    wrong += [f"{_said(key)}: was never sent" for key in found.keys() - sent.keys()]
    return sum(map(len, sent.values())), wrong, len(points)


def points_of(sent: Iterable[lines.Line], repeats: str) -> dict[tuple[int, str], list[lines.Value]]:
    """The values of each step and name, of which a tracker may keep `all`, the `last` or the `first`."""
    points: dict[tuple[int, str], list[lines.Value]] = {}
    for line in sent:
        for name, value in line.values.items():
            points.setdefault((line.step, name), []).append(value)
    kept = {"all": slice(None), "last": slice(-1, None), "first": slice(1)}[repeats]
    return {key: values[kept] for key, values in points.items()}


def _said(key: tuple[int, str]) -> str:
    step, name = key
    return f"{name} at step {step}"


def _list(values: Sequence[lines.Value]) -> str:
    return ", ".join(map(str, values))


def _same(sent: lines.Value, held: lines.Value) -> bool:
    """Equal to the last bit."""
    if isinstance(sent, float) and isinstance(held, float) and math.isnan(sent):
        return math.isnan(held)
    return sent == held
