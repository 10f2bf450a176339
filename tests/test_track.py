"""Tracking: every point in every tracker once, and no tracker that can hurt the training or another tracker."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from planting import ALL, CONFIG, NAMES, create, plant, processes_of, stored, trackio_rows, until

from lib.journal import folder, lines
from lib.options import ROOT, Record
from lib.track import check, settings, sidecar, sync
from lib.track.run import Run
from lib.track.settings import Settings

TRAINER = """
import json, sys, time
from pathlib import Path
from lib.track.run import Run
from lib.track.settings import Settings
runs, steps = Path(sys.argv[1]), int(sys.argv[2])
files = {"config.json": "{}"}
with Run.create(runs, "killed-" + runs.name, "run", texts=files, trackers=Settings(60, enable_trackio=True)) as run:
    for step in range(steps):
        run.log({"loss": step * 0.1}, step)
    print(run.store.path, flush=True)
    time.sleep(600)
"""


def test_one_log_reaches_every_tracker_with_the_same_names_steps_and_values(tmp_path: Path) -> None:
    with create(tmp_path) as run:
        for step in range(0, 300, 3):
            run.log(check.curves(step), step)
        run.finish({"steps": 300})
    for name in NAMES:
        sent, wrong, found = check.compare(name, run.store)
        assert (sent, wrong, found) == (600, [], 600), name


def test_after_a_rewind_no_tracker_has_a_step_twice(tmp_path: Path) -> None:
    """Life 1 logs steps 0-69 and ends; life 2 goes on from a checkpoint at 50 with other values."""
    with create(tmp_path) as run:
        for step in range(70):
            run.log({"loss": float(step)}, step)
        run.interrupted("SIGTERM")
    with Run(run.store, ALL) as again:
        again.rewind(50)
        for step in range(51, 100):
            again.log({"loss": step + 0.5}, step)
        again.finish({})
    for name in NAMES:
        sent, wrong, found = check.compare(name, run.store)
        assert (sent, wrong, found) == (100, [], 100), name
    assert trackio_rows(run.store) == list(range(100))


def test_a_rewind_within_a_life_reaches_the_trackers(tmp_path: Path) -> None:
    with create(tmp_path) as run:
        for step in range(20):
            run.log({"loss": float(step)}, step)
        until(lambda: all((run.store.trackers / f"{name}.json").exists() for name in NAMES))
        run.rewind(9)
        for step in range(10, 30):
            run.log({"loss": -float(step)}, step)
        run.finish({})
    for name in NAMES:
        assert check.compare(name, run.store)[1:] == ([], 30), name
    assert trackio_rows(run.store) == list(range(30))


def test_a_killed_trainer_loses_no_point_and_leaves_no_process(tmp_path: Path) -> None:
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER, tmp_path, "1000"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert trainer.stdout is not None
    store = folder.RunFolder(Path(trainer.stdout.readline().strip()))
    trainer.send_signal(signal.SIGKILL)
    trainer.communicate()
    assert len(lines.read(store.path)) == 1000
    assert store.state() == "killed"
    until(lambda: not processes_of(store))
    assert stored(store, "trackio") == list(range(1000))
    with Run(store, Settings(60, enable_trackio=True)) as again:
        again.rewind(899)
        for step in range(900, 1100):
            again.log({"loss": step * 0.1}, step)
        again.finish({})
    assert trackio_rows(store) == list(range(1100))


def test_a_tracker_that_hangs_neither_slows_training_nor_delays_the_end_beyond_its_bound(
    tmp_path: Path, planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(planted, {"run": {"trackio": ("start", "hangs")}})
    with create(tmp_path, Settings(2, enable_trackio=True, enable_tensorboard=True)) as run:
        began = time.monotonic()
        for step in range(1000):
            run.log({"loss": float(step)}, step)
        assert time.monotonic() - began < 1.0
        run.finish({})
        began = time.monotonic()
    assert time.monotonic() - began < 2 + 5
    assert "warning: trackio: not done in 2 s" in capsys.readouterr().err
    assert stored(run.store, "tensorboard") == list(range(1000))
    assert not processes_of(run.store)


def test_a_tracker_that_is_not_installed_is_one_line_with_the_pip_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no_such_tracker").mkdir()  # as W&B's own ./wandb: a folder is no package
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(settings.PACKAGES, "trackio", "no_such_tracker")
    with create(tmp_path, Settings(60, enable_trackio=True)) as run:
        run.log({"loss": 1.0}, 0)
        run.finish({})
    assert capsys.readouterr().err == (
        "warning: trackio is on but not installed (pip install no_such_tracker); its points are kept\n"
    )
    monkeypatch.undo()
    assert sync.main(str(run.store.path), tmp_path / "runs") == 0
    assert trackio_rows(run.store) == [0]


def test_two_readers_of_one_run_send_each_point_once(tmp_path: Path) -> None:
    with create(tmp_path, Settings(30, enable_trackio=True)) as run:
        for step in range(500):
            run.log({"loss": float(step)}, step)
        second = sidecar.start(run.store, ["trackio"], 1)
        second.communicate()
        run.finish({})
    assert trackio_rows(run.store) == list(range(500))


def test_the_check_of_a_tracker_fails_when_its_store_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "STEPS", 20)
    for name in NAMES:
        on = Settings(
            60, enable_trackio=name == "trackio", enable_wandb=name == "wandb", enable_tensorboard=name == "tensorboard"
        )
        record = Record("lenet5", "sgd", f"project-{tmp_path.name}", f"curves_{name}_1", "", "no", "", CONFIG)
        store = check.send(name, tmp_path / "runs", record, on)
        assert check.main(name, store) == 0
        assert "120 points sent, 120 read back" in capsys.readouterr().out
    trackio, wandb, tensorboard = (next(tmp_path.glob(f"runs/*/curves_{name}_*")) for name in NAMES)
    (database,) = Path(os.environ["TRACKIO_DIR"]).glob(f"{trackio.parent.name}*.db")
    with sqlite3.connect(database) as connection:
        change = "UPDATE metrics SET metrics = replace(metrics, 'val_loss', 'val_lost') WHERE step = 7"
        assert connection.execute(change).rowcount == 1
    (log,) = wandb.glob("wandb/offline-run-*/run-*.wandb")
    log.write_bytes(log.read_bytes()[:-4000])
    (events,) = tensorboard.glob("tensorboard/events.*")
    events.write_bytes(events.read_bytes()[:-200])
    for name, run in zip(NAMES, (trackio, wandb, tensorboard), strict=True):
        assert check.main(name, folder.RunFolder(run)) == 1
        assert "differ" in capsys.readouterr().out


def test_what_an_offline_run_leaves_to_do_is_said(tmp_path: Path) -> None:
    with create(tmp_path, Settings(60, enable_wandb=True, wandb_offline=True)) as run:
        run.log({"loss": 1.0}, 0)
        run.finish({})
    assert run.looks["wandb"] == "make wandb-sync"


def test_when_the_sidecar_dies_another_one_takes_over(tmp_path: Path) -> None:
    with create(tmp_path, Settings(60, enable_trackio=True, enable_tensorboard=True)) as run:
        for step in range(30):
            run.log({"loss": float(step)}, step)
            if step == 10:
                assert run._sidecar is not None
                run._sidecar.kill()
                run._sidecar.wait()
        time.sleep(1.1)
        said = list(run.news())
        for step in range(30, 40):
            run.log({"loss": float(step)}, step)
        run.finish({})
    assert "warning: the trackers' sidecar ended with status -9; another one takes over" in said
    assert trackio_rows(run.store) == list(range(40))
    assert stored(run.store, "tensorboard") == list(range(40))


def test_no_secret_that_a_client_says_is_kept_or_shown(
    tmp_path: Path, planted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, three = (word * 3 for word in ("abra", "sesame", "hunter"))  # whole in no source
    monkeypatch.setenv("MY_API_KEY", three)
    url = f"https://user:{one}/x@host.example/p?api_key={two} {three}"
    plant(planted, {"run": {"trackio": ("start", f"raises:{url}")}})
    with create(tmp_path, Settings(60, enable_trackio=True)) as run:
        run.finish({})
    shown = capsys.readouterr().err
    assert "ConnectionError: https://" in shown and "host.example/p" in shown
    kept = "".join(path.read_text(errors="replace") for path in run.store.path.rglob("*") if path.is_file())
    for secret in (one, two, three):
        assert secret not in shown and secret not in kept


def test_a_torn_end_of_the_journal_is_nothing_left_to_send(tmp_path: Path) -> None:
    with create(tmp_path, Settings(60, enable_trackio=True)) as run:
        run.log({"loss": 1.0}, 0)
        run.finish({})
    with (run.store.path / lines.NAME).open("ab") as file:
        file.write(b'{"seq":1,"time":1.0,"st')
    assert sync.main(str(run.store.path), tmp_path / "runs") == 0


def test_the_check_of_a_tracker_sees_a_point_that_is_there_twice(tmp_path: Path) -> None:
    with create(tmp_path, Settings(60, enable_trackio=True)) as run:
        run.log({"loss": 1.0}, 0)
        run.finish({})
    (database,) = Path(os.environ["TRACKIO_DIR"]).glob(f"{run.store.project}*.db")
    with sqlite3.connect(database) as connection:
        columns = "timestamp, run_id, run_name, step, metrics"
        connection.execute(f"INSERT INTO metrics ({columns}) SELECT {columns} FROM metrics WHERE run_name = 'run'")
    sent, wrong, found = check.compare("trackio", run.store)
    assert (sent, found) == (1, 2) and wrong


def test_the_trackers_processes_do_not_see_the_job_or_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"}
    for name in names:
        monkeypatch.setenv(name, "1")
    told = sidecar.environment()
    assert not names & told.keys()
    assert told["CUDA_VISIBLE_DEVICES"] == ""
