"""GoodSeed: what is logged is in its own database, once, under its own reader."""

from __future__ import annotations

import math
from pathlib import Path

import parity
import pytest

from lib.journal.folder import RunFolder
from lib.track import sync

storage = pytest.importorskip("goodseed.storage")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GOODSEED_HOME", str(tmp_path / "goodseed"))
    return tmp_path / "goodseed"


def database(home: Path, store: RunFolder) -> Path:
    return home / "projects" / store.project / "runs" / f"{store.id}.sqlite"


def test_every_value_reads_back_with_the_configuration_the_options_and_the_time(tmp_path: Path, home: Path) -> None:
    store = parity.life(
        tmp_path, "goodseed", tracker_group="sweep", tracker_tags="a, b", tracker_notes="why", tracker_job_type="train"
    )
    assert parity.odd_ones("goodseed", store) == {
        "whole": [7.0], "yes": [1.0], "no": [0.0], "infinite": [math.inf], "minus_infinite": [-math.inf],
        "word": ["warm-up"], "third": [2 / 3], "tiny": [5e-324], "huge": [1.7976931348623157e308],
    }  # fmt: skip
    configs = storage.read_configs(database(home, store))
    assert configs["parameters/LEARNING_RATE"] == 0.004 and configs["parameters/COMPILE"] is False
    assert configs["sys/tags"] == {"a", "b"} and configs["sys/description"] == "why"
    assert (configs["group"], configs["job_type"], configs["sys/name"]) == ("sweep", "train", "run")
    assert storage.read_run_meta(database(home, store))["status"] == "finished"
    assert not [path for path in configs if path.startswith(("monitoring", "source_code"))]


def test_no_step_is_there_twice_after_a_rewind_and_a_replay(tmp_path: Path) -> None:
    parity.twice(tmp_path, "goodseed")


def test_a_failed_run_is_marked(tmp_path: Path, home: Path) -> None:
    assert storage.read_run_meta(database(home, parity.failed(tmp_path, "goodseed")))["status"] == "failed"


def test_a_replay_keeps_the_time_of_each_point_and_texts_are_series(tmp_path: Path, home: Path) -> None:
    with parity.create(tmp_path, "goodseed") as run:
        entry = {"kind": "text", "name": "sample", "text": "Once upon a time"}
        run.journal.append({}, 3, media=entry)
        run.finish({})
    with (run.store.path / "journal.jsonl").open("a") as file:
        file.write('{"seq":9,"time":1000000000.5,"step":4,"values":{"loss":0.25}}\n')
    storage.write_run_meta(database(home, run.store), "status", "running")  # as a SIGKILL leaves it
    assert sync.main(str(run.store.path), tmp_path / "runs") == 0
    (point,) = storage.read_metrics(database(home, run.store))
    assert (point["step"], point["value"], point["logged_at"]) == (4, 0.25, "2001-09-09T01:46:40+00:00")
    (text,) = storage.read_string_series(database(home, run.store))["points"]
    assert (text["path"], text["step"], text["value"]) == ("media/sample", 3, "Once upon a time")
    parity.no_difference("goodseed", run.store)
