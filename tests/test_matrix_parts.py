"""The engine's parts: GPUs as slots, the time that is left, and what a folder says of its cell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib import errors
from lib.journal.folder import RunFolder
from lib.matrix import cell as unit
from lib.matrix import status
from lib.matrix.cell import State, state
from lib.matrix.gpus import Slots
from lib.matrix.points import Cell
from lib.matrix.times import Times


def test_a_gpu_is_given_to_as_many_as_may_share_it() -> None:
    slots = Slots(["GPU-a", "GPU-b"], 2, dict)
    taken = [slots.take(1) for _ in range(5)]
    assert taken == [("GPU-a",), ("GPU-b",), ("GPU-a",), ("GPU-b",), None]
    slots.give(("GPU-b",))
    assert slots.take(2) is None and slots.take(1) == ("GPU-b",)


def test_a_gpu_is_shared_only_while_its_memory_suffices() -> None:
    free = {"GPU-a": 9000.0}
    slots = Slots(["GPU-a"], 3, lambda: free)
    assert slots.take(1, 8000) == ("GPU-a",)
    assert slots.take(1, 8000) == ("GPU-a",)
    free["GPU-a"] = 1000.0
    assert slots.take(1, 8000) is None
    slots.give(("GPU-a", "GPU-a"))
    assert slots.take(1, 8000) == ("GPU-a",), "what is empty is tried: its run may be all that there is"


def cell(optimizer: str, *, work: str = "w") -> Cell:
    return Cell("0", "n", {"MODEL": "lenet5", "OPTIMIZER": optimizer}, work, -1, "auto", 1)


def test_time_left_is_the_median_of_cells_of_the_same_kind() -> None:
    times = Times()
    assert times.left([cell("sgd")], [], 1) is None
    for seconds in (10.0, 12.0, 90.0):
        times.add(cell("sgd"), seconds)
    times.add(cell("adam"), 30.0)
    assert times.expected(cell("sgd")) == 12.0 and times.expected(cell("adam")) == 30.0
    assert times.expected(cell("adamw")) == 21.0, "another method: the median of the same work"
    assert times.expected(cell("sgd", work="other")) is None
    assert times.left([cell("sgd"), cell("adam")], [6.0], 2) == 24.0
    assert times.left([], [6.0], 2) == 6.0


def test_the_rate_of_a_running_cell_tells_its_time_left() -> None:
    assert status.Progress(50, 200, 53.0).left_s == pytest.approx(153.0)
    assert status.Progress(0, 0, 5.0).left_s is None
    row = status.bars({"a": status.Progress(50, 200, 53.0)}, 100)[0]
    assert row.startswith(" 25% ██████░") and "50/200" in row and "left  a" in row


def test_what_a_killed_driver_left_is_told_from_a_failure(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    assert state(run) == State("left")
    run.record("trial", number=1, pid=1)
    assert state(run) == State("left")
    run.record("verdict", number=1, kind="error", why="ValueError")
    assert state(run) == State("failed", "error", "ValueError")
    lock = unit.Held(run.path / unit.LOCK)
    assert lock.take(0) and state(run) == State("running")
    lock.free()
    (run.path / "result.json").write_text(json.dumps({"steps": 3}))
    assert state(run) == State("done")


def test_a_file_that_may_not_be_read_is_one_line_with_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    def refused() -> int:
        raise PermissionError(13, "Permission denied", "runs/p/r/result.json")

    assert errors.guarded(refused) == 2
    assert capsys.readouterr().err == ("error: runs/p/r/result.json: Permission denied. Change its mode or its owner\n")
