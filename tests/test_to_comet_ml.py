"""Comet, offline: what is logged is in its archive, once, in the form that `comet upload` reads."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import parity
import pytest

from lib.journal.folder import RunFolder
from lib.track.settings import missing

if missing("comet_ml"):  # importorskip would import it, and it changes the process that it is imported in
    pytest.skip("comet_ml is not installed", allow_module_level=True)


@pytest.fixture(autouse=True)
def no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMET_CONFIG", str(tmp_path / "comet.config"))
    monkeypatch.delenv("COMET_API_KEY", raising=False)


def archive(store: RunFolder) -> zipfile.ZipFile:
    return zipfile.ZipFile(store.path / f"comet/{store.id}.zip")


def messages(store: RunFolder, kind: str) -> list[Any]:
    with archive(store) as held:
        found = [json.loads(line) for line in held.read("messages.json").splitlines()]
    return [message["payload"] for message in found if message["type"] == kind]


def test_every_value_reads_back_with_the_configuration_and_the_options(tmp_path: Path) -> None:
    store = parity.life(
        tmp_path, "comet_ml", tracker_group="sweep", tracker_tags="a, b", tracker_notes="why",
        comet_ml_project="theirs", comet_ml_workspace="team",
    )  # fmt: skip
    odd = parity.odd_ones("comet_ml", store)
    assert math.isnan(float(str(odd.pop("not_a_number")[0])))
    assert odd == {
        "whole": [7], "yes": [1], "no": [0], "infinite": [math.inf], "minus_infinite": [-math.inf],
        "third": [1 / 3, 2 / 3], "tiny": [5e-324], "huge": [1.7976931348623157e308],
    }  # fmt: skip
    with archive(store) as held:
        about = json.loads(held.read("experiment.json"))
    assert (about["offline_id"], about["project_name"], about["workspace"]) == (store.id, "theirs", "team")
    assert set(about["tags"]) == {"a", "b"} and not about["customer_error_reported"]
    others = {other["key"]: other["value"] for other in messages(store, "log_other")}
    assert (others["Name"], others["notes"], others["group"]) == ("run", "why", "sweep")
    parameters = [payload["param"] for payload in messages(store, "parameter_msg") if "param" in payload]
    assert {p["paramName"]: p["paramValue"] for p in parameters}["LEARNING_RATE"] == 0.004
    assert not messages(store, "system_details") and not messages(store, "file_upload")
    assert [path.name for path in (store.path / "comet").iterdir()] == [f"{store.id}.zip"]


def test_no_step_is_there_twice_after_a_rewind_and_a_replay(tmp_path: Path) -> None:
    parity.twice(tmp_path, "comet_ml")


def test_a_failed_run_is_marked_its_media_travel_along_and_points_have_the_journals_time(tmp_path: Path) -> None:
    media: list[dict[str, Any]] = [
        {"kind": "image", "name": "samples", "file": "media/0.png"},
        {"kind": "text", "name": "story", "text": "Once upon a time"},
        {"kind": "histogram", "name": "weights", "counts": [1, 2], "edges": [0.0, 0.5, 1.0]},
        {"kind": "table", "name": "confusion", "columns": ["x", "y"], "rows": [[1, "a"], [2, "b"]]},
        {"kind": "artifact", "name": "folder", "file": "media"},
        {"kind": "model", "name": "net", "file": "media/0.png"},
    ]
    with pytest.raises(ZeroDivisionError), parity.create(tmp_path, "comet_ml", comet_ml_offline=True) as run:
        (run.store.path / "media").mkdir()
        (run.store.path / "media/0.png").write_bytes(parity.PNG)
        for step, entry in enumerate(media):
            run.journal.append({}, step, media=entry)
        with (run.store.path / "journal.jsonl").open("a") as file:
            file.write('{"seq":9,"time":1000000000.5,"step":9,"values":{"loss":0.25}}\n')
        raise ZeroDivisionError
    parity.no_difference("comet_ml", run.store)
    with archive(run.store) as held:
        assert json.loads(held.read("experiment.json"))["customer_error_reported"]
    command = f"comet upload {run.store.path}/comet/{run.store.id}.zip"
    assert command in (run.store.trackers / "comet_ml.jsonl").read_text()
    point, *_ = messages(run.store, "metric_msg")
    assert (point["metric"]["metricName"], point["local_timestamp"]) == ("loss", 1_000_000_000_500)
    sent = {payload["upload_type"]: payload["additional_params"] for payload in messages(run.store, "file_upload")}
    assert sent["visualization"]["figName"] == "samples" and sent["histogram3d"]["fileName"] == "weights"
    assert sent["model-element"]["groupingName"] == "net" and "text-sample" in sent
    assert len(messages(run.store, "file_upload")) == 6
