"""What a worker hands over, whenever it dies: played with a client that keeps what it gets, as W&B's cloud does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from lib.journal import folder, lines
from lib.journal.lines import Line, Value
from lib.track import worker
from lib.track.client import connect
from lib.track.state import State, behind


class Cloud:
    """Keeps the first value of each step, whatever comes later; `calls_left` log calls on, its process dies."""

    rebuilds, withdraws, repeats, takes = True, False, "first", frozenset[str]()
    kept: dict[int, dict[int, Value]]  # part -> step -> value
    calls_left: int

    def __init__(self, part: int) -> None:
        self._here = Cloud.kept.setdefault(part, {})

    def start(self, *, fresh: bool) -> str:
        return ""

    def holds(self, value: Value) -> Value:
        return value

    def log(self, lines: Sequence[Line]) -> None:
        Cloud.calls_left -= 1
        if Cloud.calls_left < 0:
            raise ConnectionError
        for line in lines:
            self._here.setdefault(line.step, line.values["loss"])

    def finish(self, *, failed: bool) -> str:
        return ""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> folder.RunFolder:
    Cloud.kept = {}
    monkeypatch.setattr(worker, "connect", lambda name, folder, *, part: Cloud(part))
    monkeypatch.setattr(worker, "BATCH_BYTES", 300)
    return folder.RunFolder.create(tmp_path, "project", "run")


def feed(store: folder.RunFolder, *, calls: int) -> bool:
    """A worker's life: it dies after `calls` calls of the client; True when it came to its end."""
    Cloud.calls_left = calls
    try:
        life = worker.Worker(store, "cloud", lambda **_: None)
        life.open()
        life.finish(failed=False)
    except ConnectionError:
        return False
    return True


@pytest.mark.parametrize("rebuilds", [True, False])
@pytest.mark.parametrize("first", range(0, 24, 3))
def test_a_linked_run_has_each_step_once_wherever_the_workers_died(
    run: folder.RunFolder, monkeypatch: pytest.MonkeyPatch, rebuilds: bool, first: int
) -> None:
    monkeypatch.setattr(Cloud, "rebuilds", rebuilds)
    journal = lines.Journal(run.path / lines.NAME)
    for step in range(70):
        journal.append({"loss": float(step)}, step)
    assert feed(run, calls=1000)
    journal.rewind(50)
    for step in range(51, 80):
        journal.append({"loss": step + 0.5}, step)
    for calls in (first, 5):
        assert feed(run, calls=calls) != behind(run, "cloud")
    assert feed(run, calls=1000)
    assert not behind(run, "cloud")
    journal.close()
    assert Cloud.kept == {
        1: {step: float(step) for step in range(70)},
        2: {step: step + 0.5 for step in range(51, 80)},
    }


@pytest.mark.parametrize("tracker", ["trackio", "wandb", "tensorboard"])
def test_a_whole_number_beyond_all_floats_stops_no_tracker(run: folder.RunFolder, tracker: str) -> None:
    client = connect(tracker, run)
    assert [client.holds(10**400), client.holds(-(10**400))] == [float("inf"), float("-inf")]


def test_a_rewind_that_contradicts_nothing_goes_on_in_the_same_run(run: folder.RunFolder) -> None:
    journal = lines.Journal(run.path / lines.NAME)
    for step in range(10):
        journal.append({"loss": float(step)}, step)
    assert feed(run, calls=1000)
    journal.rewind(9)
    journal.append({"loss": 10.5}, 10)
    journal.append({"loss": 11.0}, 11)  # void before anyone has it
    journal.rewind(10)
    journal.append({"loss": 11.5}, 11)
    assert feed(run, calls=1000)
    journal.close()
    assert Cloud.kept == {1: {**{step: float(step) for step in range(10)}, 10: 10.5, 11: 11.5}}
    assert State.of(run, "cloud").part == 1
