"""SwanLab, offline: what is logged is in its file, once, as its own reader has it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import parity
import pytest

from lib.journal.folder import RunFolder
from lib.track import sync

pytest.importorskip("swanlab")
store_of = pytest.importorskip("swanlab.sdk.internal.core_python.store")
record_of = pytest.importorskip("swanlab.proto.swanlab.record.v1.record_pb2")


FULL = """
import sys
if "lib.track.worker" in sys.orig_argv:
    from swanlab.sdk.internal.core_python.store import DataStoreWriter as Writer
    write, calls = Writer.write, []
    def full(self, data):
        calls.append(data)
        if len(calls) == 21:
            raise OSError(28, "No space left on device")
        write(self, data)
    Writer.write = full
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWANLAB_SAVE_DIR", str(tmp_path / "home"))
    monkeypatch.delenv("SWANLAB_API_KEY", raising=False)


def records(store: RunFolder) -> list[Any]:
    (file,) = store.path.glob("swanlab/*/*.swanlab")
    reader = store_of.DataStoreReader()
    reader.open(file)
    found = [record_of.Record.FromString(data) for data in reader]
    reader.close()
    return found


def test_every_value_reads_back_with_the_configuration_the_options_and_the_time(tmp_path: Path) -> None:
    store = parity.life(
        tmp_path, "swanlab", tracker_group="sweep", tracker_tags="a, b", tracker_notes="why", tracker_job_type="train",
        swanlab_project="theirs", swanlab_workspace="team",
    )  # fmt: skip
    odd = parity.odd_ones("swanlab", store)
    assert math.isnan(float(str(odd.pop("not_a_number")[0])))
    assert odd == {
        "whole": [7.0], "yes": [1.0], "no": [0.0], "infinite": [math.inf], "minus_infinite": [-math.inf],
        "third": [1 / 3], "tiny": [5e-324], "huge": [1.7976931348623157e308],
    }  # fmt: skip
    start, *rest = records(store)
    told = start.start
    assert (told.name, told.project, told.workspace, told.id) == ("run", "theirs", "team", store.id)
    assert (told.group, list(told.tags), told.description, told.job_type) == ("sweep", ["a", "b"], "why", "train")
    (config,) = store.path.glob("swanlab/*/files/config.yaml")
    assert "LEARNING_RATE" in config.read_text() and "0.004" in config.read_text()
    assert rest[-1].finish.state == 1 and not [record for record in rest if record.HasField("log")]


def test_no_step_is_there_twice_after_a_rewind_and_a_replay(tmp_path: Path) -> None:
    parity.twice(tmp_path, "swanlab")


def test_a_failed_run_is_marked_its_media_travel_along_and_points_have_the_journals_time(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), parity.create(tmp_path, "swanlab", swanlab_offline=True) as run:
        (run.store.path / "media").mkdir()
        (run.store.path / "media/0.png").write_bytes(parity.PNG)
        run.journal.append({}, 2, media={"kind": "image", "name": "samples", "file": "media/0.png", "caption": "one"})
        run.journal.append({}, 2, media={"kind": "text", "name": "story", "text": "Once upon a time"})
        with (run.store.path / "journal.jsonl").open("a") as file:
            file.write('{"seq":9,"time":1000000000.5,"step":4,"values":{"loss":0.25}}\n')
        raise ZeroDivisionError
    parity.no_difference("swanlab", run.store)
    found = records(run.store)
    assert found[-1].finish.state == 2
    (folder,) = run.store.path.glob("swanlab/run-*")
    assert f"swanlab sync {folder}" in (run.store.trackers / "swanlab.jsonl").read_text()
    assert [record.media.key for record in found if record.HasField("media")] == ["samples", "story"]
    (scalar,) = (record.scalar for record in found if record.HasField("scalar"))
    assert scalar.timestamp.ToJsonString() == "2001-09-09T01:46:40.500Z"


def test_points_that_swanlab_drops_on_a_full_disk_are_missed_and_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(FULL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with parity.create(tmp_path, "swanlab") as run:
        for step in range(100):
            run.log({"loss": float(step)}, step)
        run.finish({})
    assert "warning: swanlab: OSError: SwanLab kept" in capsys.readouterr().err
    monkeypatch.delenv("PYTHONPATH")
    (run.store.trackers / "swanlab.json").unlink()
    assert sync.main(str(run.store.path), tmp_path / "runs") == 0
    assert len(parity.no_difference("swanlab", run.store)) == 100
