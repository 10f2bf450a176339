"""MLflow, read back through its own client: from the database beside the runs, and from a server."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from sending import create, logged, rewound, send, send_media

from lib.journal import folder, lines
from lib.options import ROOT
from lib.track import check, sync
from lib.track.client import ABSENT
from lib.track.run import Run
from lib.track.settings import Settings

mlflow = pytest.importorskip("mlflow")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, of SQLAlchemy

TABLE = {"kind": "table", "name": "confusion", "columns": ["a", "b"], "rows": [[1, "x"], [2, "y"]]}


@pytest.fixture(autouse=True)
def no_store_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder, and so one database, for all: MLflow takes seconds to make one."""
    return tmp_path_factory.mktemp("mlflow") / "the runs"


def sent_of(store: folder.RunFolder, experiment: str = "project") -> Any:
    """The one run that MLflow's own client finds for `store`, in the database beside the run folders."""
    client = mlflow.MlflowClient(database(store))
    experiment_id = client.get_experiment_by_name(experiment).experiment_id
    (run,) = client.search_runs([experiment_id], f"attributes.run_name = '{store.name}'")
    return run


def database(store: folder.RunFolder) -> str:
    return f"sqlite:///{store.path.parent.parent}/mlflow.db"


def test_a_run_and_its_rewind_read_back_equal_to_the_last_digit(runs: Path) -> None:
    again = rewound(runs, "mlflow")
    assert again.looks["mlflow"] == "make mlflow-show"
    only = sent_of(again.store)
    assert (only.info.status, only.info.run_name) == ("FINISHED", again.store.name)


def test_sent_twice_each_point_is_there_once_with_the_time_of_the_journal(runs: Path) -> None:
    store = logged(runs, "mlflow", [(step, {"loss": 1 / (step + 1), "lr": math.nan}) for step in range(1200)])
    send(store, "mlflow")
    send(store, "mlflow")
    assert check.compare("mlflow", store) == (2400, [], 2400)
    run = sent_of(store)
    history = mlflow.MlflowClient(database(store)).get_metric_history(run.info.run_id, "loss")
    times = [int(line.time * 1000) for line in lines.read(store.path)]
    assert sorted(point.timestamp for point in history) == times


def test_special_values_come_back_as_holds_says(runs: Path) -> None:
    values = [math.inf, -math.inf, math.nan, None, "text", True, 7, 10**400, -0.0, 5e-324, 0.1, 0.1]
    store = logged(
        runs, "mlflow", [*((3, {"x": value}) for value in values), (1, {"x": 2.5}), (2, {"top@1": 0.5, "a//b": 1.5})]
    )
    client = send(store, "mlflow")
    largest = sys.float_info.max
    assert [client.holds(value) for value in (math.inf, -math.inf, True)] == [largest, -largest, 1.0]
    assert client.holds("text") is ABSENT and client.holds(None) is ABSENT
    assert check.compare("mlflow", store) == (13, [], 13)


def test_hyperparameters_tags_group_and_notes_arrive(runs: Path) -> None:
    told = {"group": "g", "job_type": "sweep", "notes": "a note", "tags": ["baseline", "a:b"], "experiment": "other"}
    store = logged(runs, "mlflow", [(0, {"x": 1.0})], **told)
    send(store, "mlflow")
    run = sent_of(store, "other")
    assert run.data.params == {
        "MODEL": "lenet5", "LEARNING_RATE": "0.004", "NOTE": "x" * 6000, "provenance/argv": "['a', 'b']",
    }  # fmt: skip
    tags = {"group": "g", "job_type": "sweep", "mlflow.note.content": "a note", "baseline": "true", "a:b": "true"}
    assert tags.items() <= run.data.tags.items()


def test_a_failed_run_is_marked_and_a_fresh_start_forgets_it(runs: Path) -> None:
    store = logged(runs, "mlflow", [(0, {"x": 1.0})])
    send(store, "mlflow", failed=True)
    failed = sent_of(store)
    assert failed.info.status == "FAILED"
    send(store, "mlflow", fresh=True)
    fresh = sent_of(store)
    assert fresh.info.run_id != failed.info.run_id
    assert check.compare("mlflow", store) == (1, [], 1)


def test_media_become_artifacts_once_and_a_model_is_registered(runs: Path) -> None:
    store = logged(runs, "mlflow", [])
    (store.path / "media").mkdir()
    pixels = pytest.importorskip("PIL.Image").new("RGB", (4, 4))
    pixels.save(store.path / "media" / "0.png")
    (store.path / "media" / "model.pt").write_bytes(b"weights")
    tensor = {"name": "x", "dtype": "float32", "shape": [-1, 10]}
    media: list[dict[str, Any]] = [
        {"kind": "image", "name": "val/samples", "file": "media/0.png"},
        TABLE,
        {"kind": "text", "name": "story", "text": "once"},
        {"kind": "histogram", "name": "weights", "counts": [1, 2], "edges": [0.0, 0.5, 1.0]},
        {"kind": "artifact", "name": "data", "file": "media"},
        {
            "kind": "model", "name": "net", "file": "media/model.pt", "registered_name": "kilter-net",
            "signature": {"inputs": [tensor], "outputs": [tensor]},
        },
    ]  # fmt: skip
    for _ in range(2):
        send_media(store, "mlflow", media, 40)
    run = sent_of(store)
    reader = mlflow.MlflowClient(database(store))

    def paths(place: str) -> list[str]:
        return [file.path for file in reader.list_artifacts(run.info.run_id, place)]

    assert sorted(path.rpartition(".")[2] for path in paths("images")) == ["png", "webp"]
    assert paths("texts/story") == ["texts/story/40.txt"]
    assert paths("tables/confusion") == ["tables/confusion/40.json"]
    assert paths("histograms/weights") == ["histograms/weights/40.json"]
    assert paths("artifacts/data/40") == ["artifacts/data/40/0.png", "artifacts/data/40/model.pt"]
    table = reader.download_artifacts(run.info.run_id, "tables/confusion/40.json")
    assert json.loads(Path(table).read_text())["data"] == [[1, "x"], [2, "y"]]
    (version,) = reader.search_model_versions("name = 'kilter-net'")
    about = mlflow.models.Model.load(reader.download_artifacts(run.info.run_id, "models/net/40/MLmodel"))
    assert version.source == f"runs:/{run.info.run_id}/models/net/40"
    assert about.signature.inputs.to_dict()[0]["tensor-spec"] == {"dtype": "float32", "shape": (-1, 10)}
    assert (runs / "mlartifacts" / run.info.run_id).is_dir()


def test_a_server_that_refuses_is_an_error_within_seconds(runs: Path) -> None:
    store = logged(runs, "mlflow", [(0, {"x": 1.0})], uri=f"http://127.0.0.1:{free_port()}")
    began = time.monotonic()
    with pytest.raises(mlflow.MlflowException, match="Max retries"):
        send(store, "mlflow")
    assert time.monotonic() - began < 10


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_server_that_comes_back_has_every_point_once_after_sync(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    on = Settings(30, enable_mlflow=True, mlflow_uri=uri)
    with served(tmp_path, port):
        run = create(tmp_path / "runs", enable_mlflow=True, mlflow_uri=uri)
        with run:
            for step in range(100):
                run.log(check.curves(step), step)
            run.interrupted("SIGTERM")
        assert check.compare("mlflow", run.store) == (600, [], 600)
        assert run.looks["mlflow"].startswith(f"{uri}/#/experiments/")
        (run.store.path / "model.pt").write_bytes(b"weights")
        model = {"kind": "model", "name": "net", "file": "model.pt", "registered_name": "served", "signature": None}
        for _ in range(2):
            send_media(run.store, "mlflow", [model, TABLE], 40)
        (version,) = mlflow.MlflowClient(uri).search_model_versions("name = 'served'")
        files = mlflow.MlflowClient(uri).list_artifacts(version.run_id, "models/net/40")
        assert [file.path for file in files] == ["models/net/40/MLmodel", "models/net/40/model.pt"]
    with Run(run.store, on) as again:
        for step in range(100, 150):
            again.log(check.curves(step), step)
        again.finish({})
    assert "make tracker-sync" in capsys.readouterr().err
    with served(tmp_path, port):
        assert sync.main(str(run.store.path), tmp_path / "runs") == 0
        assert check.compare("mlflow", run.store) == (900, [], 900)


class served:
    """`mlflow server` on the loopback address while the context lasts; its database is below `home`."""

    def __init__(self, home: Path, port: int) -> None:
        self._home, self._port = home, port

    def __enter__(self) -> None:
        where = ["--backend-store-uri", f"sqlite:///{self._home}/server.db", "--artifacts-destination", str(self._home)]
        command = [sys.executable, "-m", "mlflow", "server", *where, "--port", str(self._port), "--workers", "1"]
        self._process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health").close()
                return
            except OSError:
                time.sleep(0.5)
        raise AssertionError("mlflow server did not come up")

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
