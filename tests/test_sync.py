"""`make tracker-sync`: what is left goes, once, into any tracker; it may be repeated, interrupted, started twice."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from planting import ALL, NAMES, create, plant, processes_of, stored, trackio_rows, until

from lib.errors import Refused
from lib.journal import folder
from lib.options import ROOT
from lib.track import settings, state, sync
from lib.track.settings import Settings

NONE, TRACKIO = Settings(60), Settings(60, enable_trackio=True)
STEPS = 30
SYNC = "import sys, pathlib; from lib.track import sync; sys.exit(sync.main(sys.argv[1], pathlib.Path(sys.argv[2])))"


def trained(tmp_path: Path, trackers: Settings, name: str = "run") -> folder.RunFolder:
    with create(tmp_path, trackers, name) as run:
        for step in range(STEPS):
            run.log({"loss": float(step)}, step)
        run.finish({})
    return run.store


def offline(tmp_path: Path, name: str = "run", on: Settings = ALL) -> folder.RunFolder:
    """A run whose trackers were sent nothing."""
    store = trained(tmp_path, NONE, name)
    settings.write(store.trackers, on.enabled())
    return store


def command(tmp_path: Path) -> list[str]:
    return [sys.executable, "-c", SYNC, "run", str(tmp_path / "runs")]


def contents(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_dry_run_says_what_would_go_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = trained(tmp_path, NONE)
    other = offline(tmp_path, "other")
    before = contents(tmp_path)
    assert sync.main("", tmp_path / "runs", dry_run=True) == 0
    assert sync.main(str(store.path), tmp_path / "runs", trackers=TRACKIO.enabled(), dry_run=True) == 0
    assert contents(tmp_path) == before
    there = f"{other.project}/other"
    assert capsys.readouterr().out.splitlines() == [
        *(f"would send  {there}  {name}: 30 points" for name in NAMES),
        f"would send  {store.project}/run  trackio: 30 points",
    ]


def test_every_run_goes_that_has_something_left_but_the_one_that_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, complete = offline(tmp_path), trained(tmp_path, TRACKIO, "complete")
    with create(tmp_path, TRACKIO, "live") as live:
        for step in range(STEPS):
            live.log({"loss": float(step)}, step)
            if step == STEPS // 2:
                assert sync.main("", tmp_path / "runs") == 0
                with pytest.raises(Refused, match="still trains it"):
                    sync.main("live", tmp_path / "runs")
        live.finish({})
    said = capsys.readouterr().out
    assert f"skipped   {store.project}/live: process" in said and "complete" not in said
    for name in NAMES:
        assert f"sent      {store.project}/run  {name}: 30 points" in said
        assert stored(store, name) == list(range(STEPS))
    assert trackio_rows(live.store) == trackio_rows(complete) == list(range(STEPS))
    assert sync.main("", tmp_path / "runs") == 0
    assert capsys.readouterr().out == "nothing is left to send\n"


def test_it_also_goes_into_a_tracker_that_was_not_on(tmp_path: Path) -> None:
    store = trained(tmp_path, TRACKIO)
    with pytest.raises(Refused, match="no tracker was on"):
        sync.main(str(trained(tmp_path, NONE, "silent").path), tmp_path / "runs")
    told = Settings(60, enable_tensorboard=True, tensorboard_sections=True, tracker_tags="late").enabled()
    assert sync.main("run", tmp_path / "runs", trackers=told) == 0
    assert stored(store, "tensorboard") == list(range(STEPS))
    assert settings.read(store.trackers)["tensorboard"]["tags"] == ["late"]


def test_one_that_is_not_installed_is_named_and_the_others_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = offline(tmp_path)
    monkeypatch.setitem(settings.PACKAGES, "wandb", "no_such_tracker")
    assert sync.main("run", tmp_path / "runs") == 1
    assert "warning: wandb: pip install no_such_tracker; its points are kept\n" in capsys.readouterr().err
    assert trackio_rows(store) == stored(store, "tensorboard") == list(range(STEPS))
    assert state.behind(store, "wandb")


def test_what_a_tracker_did_not_take_makes_the_exit_status_1(
    tmp_path: Path, planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = offline(tmp_path, on=Settings(60, enable_trackio=True, enable_tensorboard=True))
    plant(planted, {"run": {"tensorboard": ("log", "raises")}})
    assert sync.main("run", tmp_path / "runs") == 1
    said = capsys.readouterr()
    assert f"left      {store.project}/run  tensorboard: 30 points" in said.out
    assert said.err.count("warning: tensorboard: ConnectionError: planted") == 1


def test_two_at_once_send_each_point_once(tmp_path: Path) -> None:
    store = offline(tmp_path)
    both = [subprocess.Popen(command(tmp_path), cwd=ROOT) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert trackio_rows(store) == list(range(STEPS))
    assert stored(store, "wandb") == stored(store, "tensorboard") == list(range(STEPS))


def test_ctrl_c_ends_it_and_the_next_one_goes_on(tmp_path: Path, planted: Path) -> None:
    store = offline(tmp_path, on=Settings(60, enable_trackio=True, enable_tensorboard=True))
    plant(planted, {"run": {"trackio": ("log", "hangs")}})
    process = subprocess.Popen(command(tmp_path), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    until(lambda: not state.behind(store, "tensorboard"))
    until((store.trackers / "trackio.json").exists)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate()[1]
    until(lambda: not processes_of(store), 5)
    planted.unlink()
    assert sync.main("run", tmp_path / "runs") == 0
    assert trackio_rows(store) == list(range(STEPS))
