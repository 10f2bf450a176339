"""W&B: values and media read back from its offline file by its own reader; a dead server is found out soon."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest
import samples
import torch

from lib.journal.folder import RunFolder
from lib.options import ROOT
from lib.track.settings import Settings

ODD = {
    **dict.fromkeys(["step", "_step_", "a.b", "val/loss", "é", "media._types", "epoch"], 0.5),
    "long": 2**70, "exact": 2**53 - 1, "text": "Infinity", "array": np.float32(0.1), "tensor": torch.tensor(3),
    "nested": {"a": {"b": 1}},
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    path = tmp_path_factory.mktemp("samples")
    told = {"group": "sweep", "job_type": "train", "tags": "a, b", "notes": "why"}
    symbols = {f"tracker_{name}": text for name, text in told.items()}
    with parity.create(path, "wandb", wandb_project="elsewhere", wandb_entity="team", **symbols) as run:
        run.log(ODD, 0)
        samples.everything(run, path)
    parity.no_difference("wandb", run.store)
    return run.store


@pytest.fixture(scope="module")
def records(store: RunFolder) -> list[dict[str, Any]]:
    """Everything in the run's file, as W&B's own inspector prints it."""
    (file,) = (path for path in store.path.glob("wandb/offline-run-*/run-*.wandb"))
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    output = subprocess.run(inspect, check=True, capture_output=True, text=True).stdout
    return [json.loads(row) for row in output.splitlines()]


@pytest.fixture(scope="module")
def shown(records: list[dict[str, Any]]) -> dict[str, Any]:
    """What the history has of media: `name.property` -> value."""
    rows = [record["history"]["item"] for record in records if "history" in record]
    media = [row for row in rows if any(name.endswith("._type") for name in row)]
    assert {row["trainer/global_step"] for row in media} == {samples.STEP}
    return {name: value for row in media for name, value in row.items()}


def file_of(store: RunFolder, shown: dict[str, Any], name: str) -> Path:
    (file,) = store.path.glob(f"wandb/offline-run-*/files/{shown[f'{name}.path']}")
    return file


def test_every_value_and_every_repeated_or_backward_step_reads_back(tmp_path: Path) -> None:
    parity.all_kept(tmp_path, "wandb")


def test_no_step_is_there_twice_after_a_rewind_and_a_replay(tmp_path: Path) -> None:
    parity.twice(tmp_path, "wandb")


def test_odd_names_and_values_are_there_under_their_names(records: list[dict[str, Any]]) -> None:
    row = next(record["history"]["item"] for record in records if "history" in record)
    assert row.keys() - {"nested/a/b", "_runtime", "_step", "_timestamp", "trainer/global_step"} == ODD.keys() - {
        "nested"
    }
    assert row["nested/a/b"] == 1


def test_the_run_has_its_options_and_the_optimizer_step_as_its_axis(records: list[dict[str, Any]]) -> None:
    found = {record["type"]: record for record in records}
    run = found["run"]["run"]
    assert (run["run_group"], run["job_type"], run["tags"], run["notes"]) == ("sweep", "train", ["a", "b"], "why")
    assert (run["project"], run["entity"]) == ("elsewhere", "team")
    axes = {entry["metric"].get("glob_name"): entry["metric"] for entry in records if "metric" in entry}
    assert axes["*"]["step_metric"] == "trainer/global_step"


def test_pictures_videos_and_texts_are_files_of_the_run(store: RunFolder, shown: dict[str, Any]) -> None:
    assert np.array_equal(samples.drawn(file_of(store, shown, "samples"))[0], samples.CHECKS)
    assert shown["samples.caption"] == "a board"
    assert (shown["val/colours._type"], shown["curve._type"]) == ("image-file", "image-file")
    assert shown["clip._type"] == "video-file" and samples.drawn(file_of(store, shown, "clip"))[1] == 2
    assert "Once &lt;b&gt;upon" in file_of(store, shown, "story").read_text()
    assert "call_module[target=0]" in file_of(store, shown, "graph").read_text()


def test_tables_histograms_and_embeddings_hold_their_numbers(store: RunFolder, shown: dict[str, Any]) -> None:
    table = json.loads(file_of(store, shown, "words").read_text())
    assert table == {"columns": samples.COLUMNS, "data": [["cat", 2, 0.5], ["dog", None, "nan"], ["a|b", 3, 1e-9]]}
    counts, edges = np.histogram(samples.VALUES.numpy(), 10)
    assert shown["weights.values"] == counts.tolist() and np.allclose(shown["weights.bins"], edges)
    projected = json.loads(file_of(store, shown, "colours").read_text())
    assert projected["columns"] == ["label", "d0", "d1", "d2", "d3"]
    assert projected["data"][1] == ["green", 0, 1, 0, 0]


def test_alerts_artifacts_and_models_are_in_the_file_that_is_sent_later(
    store: RunFolder, records: list[dict[str, Any]]
) -> None:
    (alert,) = [record["alert"] for record in records if "alert" in record]
    assert (alert["title"], alert["text"], alert["level"]) == ("Loss rises", "It was 0.25.", "ERROR")
    kept = {record["artifact"]["name"]: record["artifact"] for record in records if "artifact" in record}
    assert kept["best-weights"]["type"] == "model" and "best" in kept["best-weights"]["aliases"]
    (weights,) = kept["best-weights"]["manifest"]["contents"]
    assert Path(weights["local_path"]) == store.path / "media/best_weights-3.bin"
    assert [entry["path"] for entry in kept["data-set"]["manifest"]["contents"]] == ["a.txt"]
    assert json.loads(kept["classifier"]["metadata"])["signature"]["outputs"][0]["shape"] == [-1, 2]


DEAD = """
import sys, time
from pathlib import Path
from lib.journal.folder import RunFolder
from lib.track import client, to_wandb
to_wandb.ANSWER_S = 2.0
tracker = client.connect("wandb", RunFolder(Path(sys.argv[1])))
began = time.monotonic()
try:
    tracker.start(fresh=False)
except Exception as problem:
    print(tracker.withdraws, round(time.monotonic() - began), type(problem).__name__)
"""


@pytest.mark.parametrize("listens", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_dead_server_is_an_error_in_a_bounded_time(store: RunFolder, *, listens: bool) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:  # and says nothing
            server.listen(50)
        environ = {name: text for name, text in os.environ.items() if name != "WANDB_MODE"}
        environ |= {"WANDB_BASE_URL": f"http://127.0.0.1:{server.getsockname()[1]}", "WANDB_API_KEY": "0" * 40}
        command = [sys.executable, "-c", DEAD, str(store.path)]
        output = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120).stdout
    withdraws, seconds, _ = output.splitlines()[-1].split()
    assert withdraws == "False" and int(seconds) < 40


def test_its_own_sampling_of_gpus_is_off_unless_asked_for() -> None:
    from lib.track import to_wandb

    for wanted in (False, True):
        (told,) = Settings(60, enable_wandb=True, gpu_monitor_native=wanted).enabled().values()
        assert to_wandb._settings(samples_gpus=told["samples_gpus"]).x_disable_stats is not wanted
