"""What every tracker must do with a run, on the real tool: test_to_<name>.py calls this, then asks the tool itself."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lib.journal import folder
from lib.journal.lines import Value
from lib.track import check, sync
from lib.track.client import Point, connect
from lib.track.run import Run
from lib.track.settings import Settings

CONFIG = {"values": {"MODEL": "lenet5", "LEARNING_RATE": 0.004, "COMPILE": False, "BATCH_SIZE": 32}}
STEPS = 60  # of six curves: 360 points
ODD: dict[str, Value] = {
    "whole": 7, "yes": True, "no": False, "infinite": math.inf, "minus_infinite": -math.inf, "not_a_number": math.nan,
    "word": "warm-up", "nothing": None, "third": 1 / 3, "tiny": 5e-324, "huge": 1.7976931348623157e308,
}  # fmt: skip
SAME: dict[str, list[Value]] = {  # what a tracker that keeps every kind of value has of them but nan, at step 100
    "whole": [7], "yes": [True], "no": [False], "infinite": [math.inf], "minus_infinite": [-math.inf],
    "word": ["warm-up"], "nothing": [None], "third": [1 / 3, 2 / 3], "tiny": [5e-324],
    "huge": [1.7976931348623157e308],
}  # fmt: skip
PNG = bytes.fromhex(  # one white pixel
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a4944415478da63f80f00010101001bb6ee56"
    "0000000049454e44ae426082"
)


def create(tmp_path: Path, name: str, **symbols: Any) -> Run:
    """A run with the tracker `name` on alone, told `symbols`."""
    on: dict[str, Any] = {f"enable_{name}": True, "tracker_exit_timeout_s": 120, **symbols}
    texts = {"config.json": json.dumps(CONFIG)}
    return Run.create(tmp_path / "runs", f"project-{tmp_path.name}", "run", texts=texts, trackers=Settings(**on))


def life(tmp_path: Path, name: str, **symbols: Any) -> folder.RunFolder:
    """A run that ends well: curves, then odd values at step 100, one of them twice, then a step that goes back."""
    with create(tmp_path, name, **symbols) as run:
        for step in range(STEPS):
            run.log(check.curves(step), step)
        run.log(ODD, 100)
        run.log({"third": 2 / 3}, 100)
        run.log({"third": 3 / 3}, 99)
        run.finish({"steps": STEPS})
    no_difference(name, run.store)
    return run.store


def no_difference(name: str, store: folder.RunFolder) -> list[Point]:
    """What the tracker holds, by its own reader; equal to what it was sent."""
    sent, wrong, found = check.compare(name, store)
    assert wrong == [] and found == sent > 0
    return connect(name, store).stored()


def odd_ones(name: str, store: folder.RunFolder) -> dict[str, list[Value]]:
    """What became of the odd values, by name."""
    found: dict[str, list[Value]] = {}
    for step, called, value in connect(name, store).stored():
        if step == 100:
            found.setdefault(called, []).append(value)
    return found


def all_kept(tmp_path: Path, name: str) -> None:
    """The tracker keeps every kind of value as it is."""
    odd = odd_ones(name, life(tmp_path, name))
    assert math.isnan(float(str(odd.pop("not_a_number")[0])))
    assert odd == SAME


def twice(tmp_path: Path, name: str) -> None:
    """Life 1 logs steps 0-69, life 2 goes on at 50 with other values; then all is sent once more."""
    with create(tmp_path, name) as run:
        for step in range(70):
            run.log({"loss": float(step)}, step)
        run.interrupted("SIGTERM")
    with Run(run.store, Settings(**{"tracker_exit_timeout_s": 120, f"enable_{name}": True})) as again:
        again.rewind(50)
        for step in range(51, 100):
            again.log({"loss": step + 0.5}, step)
        again.finish({})
    expected = [(step, "loss", step + 0.5 * (step > 50)) for step in range(100)]
    assert sorted(no_difference(name, run.store)) == expected
    (run.store.trackers / f"{name}.json").unlink()
    assert sync.main(str(run.store.path), tmp_path / "runs") == 0
    assert sorted(no_difference(name, run.store)) == expected


def failed(tmp_path: Path, name: str) -> folder.RunFolder:
    """A run that ends with an exception."""
    with pytest.raises(ZeroDivisionError), create(tmp_path, name) as run:
        run.log({"loss": 1.0}, 0)
        raise ZeroDivisionError
    no_difference(name, run.store)
    return run.store
