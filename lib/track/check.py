"""Does a tracker work here? Made-up curves go the way of every run, then the tool's own reader says what it holds."""

from __future__ import annotations

import collections
import math
import random
import struct
from pathlib import Path

from lib.errors import Refused
from lib.journal import folder, lines
from lib.options import Record
from lib.track import settings
from lib.track.client import connect
from lib.track.run import Run

STEPS = 200
SHOWN = 5  # differences that are printed


def main(tracker: str, store: folder.RunFolder) -> int:
    """Compare what `tracker` holds of a run with its journal; 1 when a point differs.

    Raises:
        Refused: the tracker is not installed or was not on in that run, or its store can't be read.
    """
    _require(tracker)
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
    """How many numbers the journal holds, what differs in `tracker`, and how many numbers that holds."""
    sent = {(line.step, name): v for line in lines.read(store.path) for name, v in line.values.items()}
    if tracker not in settings.read(store.trackers):
        raise Refused(f"RUN={store.name}: {tracker} was not on in this run")
    try:
        points = connect(tracker, store).stored()
    except Exception as problem:  # a foreign reader may raise anything when its file is damaged or gone
        raise Refused(f"{tracker}: what it stored can't be read ({type(problem).__name__}: {problem})") from problem
    found = {(step, name): value for step, name, value in points}
    differ = [key for key in sent if key not in found or not _same(tracker, sent[key], found[key])]
    wrong = [
        f"{name} at step {step}: {sent[step, name]}, not {found.get((step, name), 'there')}" for step, name in differ
    ]
    wrong += [f"{name} at step {step}: was never sent" for step, name in found.keys() - sent.keys()]
    often = collections.Counter((step, name) for step, name, _ in points)
    wrong += [f"{name} at step {step}: is there {count} times" for (step, name), count in often.items() if count > 1]
    return len(sent), wrong, len(points)


def _same(tracker: str, sent: lines.Value, held: lines.Value) -> bool:
    """Equal to the last bit; TensorBoard's scalars have 32 of them."""
    if not isinstance(sent, int | float) or not isinstance(held, int | float):
        return sent == held
    if tracker == "tensorboard":
        sent = float(struct.unpack("f", struct.pack("f", sent))[0])
    return sent == held or (math.isnan(sent) and math.isnan(held))
