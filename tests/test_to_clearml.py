"""ClearML, read back from the archive that it writes without a server."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from sending import CONFIG, logged, rewound, send, send_media

from lib.journal import folder, lines
from lib.track import check
from lib.track.client import ABSENT

pytest.importorskip("clearml")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # ClearML's own


@pytest.fixture(autouse=True)
def no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration of the user's; and what a client sets in this process is undone."""
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(tmp_path / "none.conf"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLEARML_CACHE_DIR", str(tmp_path))
    for name in ("CLEARML_API_HOST", "CLEARML_API_ACCESS_KEY", "CLEARML_OFFLINE_MODE"):
        monkeypatch.delenv(name, raising=False)


def archive_of(store: folder.RunFolder) -> ZipFile:
    (archive,) = store.path.glob("clearml/offline/*.zip")
    return ZipFile(archive)


def task_of(store: folder.RunFolder) -> Any:
    with archive_of(store) as archive:
        return json.loads(archive.read("task.json"))


def events_of(store: folder.RunFolder) -> list[dict[str, Any]]:
    with archive_of(store) as archive:
        return [event for batch in archive.read("metrics.jsonl").splitlines() for event in json.loads(batch)]


def test_a_run_and_its_rewind_read_back_equal_to_the_last_digit(tmp_path: Path) -> None:
    again = rewound(tmp_path, "clearml")
    assert len(events_of(again.store)) == 600
    assert again.looks["clearml"].startswith("clearml-task --import-offline-session ")


def test_sent_twice_each_point_is_there_once_with_the_time_of_the_journal(tmp_path: Path) -> None:
    store = logged(tmp_path, "clearml", [(step, {"loss": 1 / (step + 1), "val/acc": 0.5}) for step in range(300)])
    send(store, "clearml")
    send(store, "clearml")
    assert check.compare("clearml", store) == (600, [], 600)
    events = events_of(store)
    assert [event["timestamp"] for event in events[::2]] == [int(line.time * 1000) for line in lines.read(store.path)]
    assert {(event["metric"], event["variant"]) for event in events} == {("loss", "loss"), ("val", "acc")}


def test_special_values_come_back_as_holds_says(tmp_path: Path) -> None:
    values = [math.inf, -math.inf, math.nan, None, "text", True, 7, 10**400, -0.0, 5e-324, 0.1, 0.1]
    points = [
        *((3, {"x": value}) for value in values),
        (1, {"x": 2.5}),
        (2, {"a/a": 0.5, "/b": 1.5, "c/": 2, "top@1.": 1}),
    ]
    store = logged(tmp_path, "clearml", points)
    client = send(store, "clearml")
    assert [client.holds(value) for value in (math.inf, math.nan, None, "text", 10**400)] == [ABSENT] * 5
    assert client.holds(True) == 1.0
    assert check.compare("clearml", store) == (11, [], 11)


def test_hyperparameters_tags_group_and_notes_arrive(tmp_path: Path) -> None:
    told = {"group": "g", "job_type": "sweep", "notes": "a note", "tags": ["baseline", "a b"], "project": "other"}
    store = logged(tmp_path, "clearml", [(0, {"x": 1.0})], **told)
    send(store, "clearml")
    task = task_of(store)
    general = {name: entry["value"] for name, entry in task["hyperparams"]["General"].items()}
    assert general == {
        **{name: str(value) for name, value in CONFIG["values"].items()}, "provenance/argv": "['a', 'b']",
    }  # fmt: skip
    properties = {name: entry["value"] for name, entry in task["hyperparams"]["properties"].items()}
    assert properties == {"group": "g", "job_type": "sweep"}
    assert (task["comment"], task["project_name"], task["name"]) == ("a note", "other", store.name)
    assert {"baseline", "a b"} <= set(task["tags"])


def test_a_failed_run_is_marked_until_it_is_sent_as_one_that_ended_well(tmp_path: Path) -> None:
    store = logged(tmp_path, "clearml", [(0, {"x": 1.0})])
    send(store, "clearml", failed=True)
    assert "failed" in task_of(store)["tags"]
    send(store, "clearml")
    assert "failed" not in task_of(store).get("tags", [])


def test_media_lie_in_the_archive(tmp_path: Path) -> None:
    store = logged(tmp_path, "clearml", [])
    (store.path / "media").mkdir()
    pytest.importorskip("PIL.Image").new("RGB", (4, 4)).save(store.path / "media" / "0.png")
    media: list[dict[str, Any]] = [
        {"kind": "image", "name": "val/samples", "file": "media/0.png"},
        {"kind": "table", "name": "confusion", "columns": ["a", "b"], "rows": [[1, "x"], [2, None]]},
        {"kind": "text", "name": "story", "text": "once"},
        {"kind": "histogram", "name": "weights", "counts": [1, 2], "edges": [0.0, 0.5, 1.0]},
        {"kind": "artifact", "name": "data", "file": "media"},
    ]
    send_media(store, "clearml", media, 40)
    found = {(event["type"], event["metric"], event["variant"], event["iter"]) for event in events_of(store)}
    assert found == {
        ("training_debug_image", "val", "samples", 40), ("training_debug_image", "story", "story", 40),
        ("plot", "confusion", "confusion", 40), ("plot", "weights", "weights", 40),
    }  # fmt: skip
    assert (store.path / "media" / "0.png").exists()
    with archive_of(store) as archive:
        files = {Path(name).suffix: name for name in archive.namelist()}
        assert archive.read(files[".txt"]) == b"once" and ".png" in files
    (artifact,) = task_of(store)["execution"]["artifacts"]
    assert artifact["key"] == "data-40"
