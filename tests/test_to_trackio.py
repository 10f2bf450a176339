"""Trackio: values and media read back from its database by its own reader, on this machine and through a server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest
import samples
import torch

from lib.journal.folder import RunFolder
from lib.track import sync
from lib.track.client import connect


@pytest.fixture(scope="module")
def database() -> Any:
    """Trackio's reader; imported when TRACKIO_DIR is set, which it looks at once."""
    from trackio.sqlite_storage import SQLiteStorage

    return SQLiteStorage


@pytest.fixture(scope="module")
def media(stores: Path) -> Path:
    return stores / "trackio/media"


ODD = {
    **dict.fromkeys(["step", "project", "time", "a.b", "val/loss", "é"], 0.5),
    "long": 2**70, "exact": 2**63 - 1, "text": "Infinity", "array": np.float32(0.1), "tensor": torch.tensor(3),
    "nested": {"a": {"b": 1}},
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    path = tmp_path_factory.mktemp("samples")
    with parity.create(path, "trackio", tracker_group="sweep", tracker_tags="a, b", tracker_notes="why") as run:
        run.log(ODD, 0)
        samples.everything(run, path)
    parity.no_difference("trackio", run.store)
    return run.store


@pytest.fixture(scope="module")
def shown(store: RunFolder, database: Any) -> dict[str, Any]:
    rows = database.get_logs(store.project, store.name, run_id=store.id)
    media = [(row["step"], name, value) for row in rows for name, value in row.items() if isinstance(value, dict)]
    assert {step for step, _, _ in media} == {samples.STEP}
    return {name: value for _, name, value in media}


def test_every_value_reads_back(tmp_path: Path) -> None:
    parity.all_kept(tmp_path, "trackio")


def test_no_step_is_there_twice_after_a_rewind_and_a_replay(tmp_path: Path) -> None:
    parity.twice(tmp_path, "trackio")


def test_the_run_has_its_group_tags_and_notes(store: RunFolder, database: Any) -> None:
    config = database.get_run_config(store.project, store.name, run_id=store.id)
    assert (config["_Group"], config["tags"], config["notes"], config["LEARNING_RATE"]) == (
        "sweep", ["a", "b"], "why", 0.004,
    )  # fmt: skip


def test_each_kind_is_what_the_dashboard_draws(
    store: RunFolder, shown: dict[str, Any], database: Any, media: Path
) -> None:
    assert {name: value["_type"] for name, value in shown.items()} == {
        "samples": "trackio.image", "val/colours": "trackio.image", "curve": "trackio.image", "clip": "trackio.video",
        "words": "trackio.table", "story": "trackio.markdown", "weights": "trackio.histogram",
    }  # fmt: skip
    picture = shown["samples"]
    assert picture["caption"] == "a board"
    assert np.array_equal(samples.drawn(media / picture["file_path"])[0], samples.CHECKS)
    assert samples.drawn(media / shown["clip"]["file_path"])[1] == 2
    assert shown["words"]["_value"][1] == {"word": "dog", "count": None, "share": "nan"}
    assert shown["story"]["_value"] == samples.TEXT
    counts, edges = np.histogram(samples.VALUES.numpy(), 10)
    assert shown["weights"]["values"] == counts.tolist() and np.allclose(shown["weights"]["bins"], edges)
    (alert,) = database.get_alerts(store.project, run_id=store.id)
    assert (alert["title"], alert["text"], alert["level"], alert["step"]) == ("Loss rises", "It was 0.25.", "error", 3)
    kept = database.get_run_artifacts(store.project, store.name, store.id)["output"]
    assert sorted(one["name"] for one in kept) == ["best-weights", "classifier", "data-set"]


def test_media_sent_again_is_there_once(store: RunFolder, database: Any, media: Path) -> None:
    def held() -> tuple[int, int, int]:
        files = len([path for path in (media / store.project / store.name).rglob("*") if path.is_file()])
        rows = database.get_logs(store.project, store.name, run_id=store.id)
        return files, len(rows), len(database.get_alerts(store.project, run_id=store.id))

    before = held()
    (store.trackers / "trackio.json").unlink()
    assert sync.main(str(store.path), store.path.parent.parent) == 0
    assert held() == before == (4, 12, 1)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Trackio server of its own store, in the environment as TRACKIO_SERVER_URL; its store."""
    home = tmp_path / "server"
    code = "import trackio; print(trackio.show(open_browser=False, block_thread=False)[3], flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "TRACKIO_DIR": str(home)}, stdin=-1, stdout=-1, text=True
    )
    assert process.stdin and process.stdout
    try:
        url = next(line.strip() for line in process.stdout if line.startswith("http"))
        monkeypatch.setenv("TRACKIO_SERVER_URL", url)
        yield home
    finally:
        process.kill()
        process.communicate()


def test_a_server_takes_values_and_media_and_gives_them_back(tmp_path: Path, server: Path) -> None:
    with parity.create(tmp_path, "trackio") as run:
        samples.everything(run, tmp_path)
        run.log(parity.ODD, 100)
    parity.no_difference("trackio", run.store)
    assert len([path for path in (server / "media").rglob("*") if path.is_file()]) == 4
    client = connect("trackio", run.store)
    client.start(fresh=True)
    assert client.stored() == []
    client.finish(failed=False)
