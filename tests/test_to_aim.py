"""Aim, read back through its own repository."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sending import CONFIG, logged, rewound, send, send_media

from lib.journal import folder, lines
from lib.options import ROOT
from lib.track import check
from lib.track.client import ABSENT, connect

aim = pytest.importorskip("aim")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Aim's own, of SQLAlchemy

KILLED = """
import os, sys
from pathlib import Path
from lib.journal import folder, lines
from lib.track.client import connect
store = folder.RunFolder(Path(sys.argv[1]))
client = connect("aim", store)
client.start(fresh=False)
client.log(lines.read(store.path)[:60])
os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder, and so one repository, for all: Aim takes seconds to make one."""
    return tmp_path_factory.mktemp("aim") / "the runs"


def sent_of(runs: Path, store: folder.RunFolder) -> Any:
    """The one run of that name in Aim's own index."""
    (run,) = [run for run in aim.Repo.from_path(str(runs / "aim")).iter_runs() if run.name == store.name]
    return run


def test_a_run_and_its_rewind_read_back_equal_to_the_last_digit(runs: Path) -> None:
    again = rewound(runs, "aim")
    assert again.looks["aim"] == "make aim-show"
    assert sent_of(runs, again.store)["status"] == "finished"


def test_sent_twice_each_point_is_there_once_with_the_time_of_the_journal(runs: Path) -> None:
    store = logged(runs, "aim", [(step, {"loss": 1 / (step + 1), "lr": math.nan}) for step in range(300)])
    send(store, "aim")
    send(store, "aim")
    assert check.compare("aim", store) == (600, [], 600)
    (loss,) = [metric for metric in sent_of(runs, store).metrics() if metric.name == "loss"]
    assert [time for _, (_, _, time) in loss.data.items()] == [line.time for line in lines.read(store.path)]


def test_special_values_come_back_as_holds_says(runs: Path) -> None:
    values = [math.inf, -math.inf, math.nan, None, "text", True, 7, -0.0, 5e-324, 1 / 3]
    points = [(step, {"x": value}) for step, value in enumerate(values)]
    again = [(2, {"x": 2.5}), (1, {"y/z @1": 1}), (0, {"y/z @1": 0.5}), (1, {"y/z @1": 1.5})]
    store = logged(runs, "aim", [*points, *again])
    client = send(store, "aim")
    assert client.holds("text") is ABSENT and client.holds(None) is ABSENT and client.holds(10**400) == math.inf
    assert check.compare("aim", store) == (10, [], 10)


def test_hyperparameters_tags_group_and_notes_arrive(runs: Path) -> None:
    told = {"group": "g", "job_type": "sweep", "notes": "a note", "tags": ["baseline", "a b"], "experiment": "other"}
    store = logged(runs, "aim", [(0, {"x": 1.0})], **told)
    send(store, "aim")
    send(store, "aim")
    run = sent_of(runs, store)
    assert run["hparams"] == {**CONFIG["values"], "provenance": CONFIG["provenance"]}
    assert (run["group"], run["job_type"], run.description, run.experiment) == ("g", "sweep", "a note", "other")
    assert sorted(run.tags) == ["a b", "baseline"]


def test_a_failed_run_is_marked_and_a_fresh_start_forgets_it(runs: Path) -> None:
    store = logged(runs, "aim", [(0, {"x": 1.0})])
    send(store, "aim", failed=True)
    failed = sent_of(runs, store)
    assert failed["status"] == "failed"
    send(store, "aim", fresh=True)
    fresh = sent_of(runs, store)
    assert fresh.hash != failed.hash
    assert check.compare("aim", store) == (1, [], 1)


def test_what_a_killed_process_had_taken_is_there_once_after_the_next(runs: Path) -> None:
    store = logged(runs, "aim", [(step, {"loss": step / 3}) for step in range(100)])
    assert subprocess.run([sys.executable, "-c", KILLED, store.path], cwd=ROOT).returncode == -signal.SIGKILL
    assert len(connect("aim", store).stored()) == 60
    send(store, "aim")
    assert check.compare("aim", store) == (100, [], 100)


def test_pictures_texts_and_histograms_are_tracked_once(runs: Path) -> None:
    store = logged(runs, "aim", [(40, {"samples": 1.0})])
    (store.path / "media").mkdir()
    pytest.importorskip("PIL.Image").new("RGB", (4, 4)).save(store.path / "media" / "0.png")
    media: list[dict[str, Any]] = [
        {"kind": "image", "name": "samples", "file": "media/0.png", "caption": "four"},
        {"kind": "figure", "name": "curve", "file": "media/0.png"},
        {"kind": "text", "name": "story", "text": "once"},
        {"kind": "histogram", "name": "weights", "counts": [1] * 513, "edges": [i / 2 for i in range(514)]},
    ]
    send(store, "aim")
    for _ in range(2):
        send_media(store, "aim", media, 40)
    assert check.compare("aim", store) == (1, [], 1)
    run = sent_of(runs, store)

    def only(kind: str, sequence: Any, name: str) -> Any:
        ((step, (value, _, time)),) = sequence(name, aim.storage.context.Context({"media": kind})).data.items()
        assert step == 40 and time >= 1.5
        return value

    assert only("image", run.get_image_sequence, "samples").caption == "four"
    assert only("figure", run.get_image_sequence, "curve").size == (4, 4)
    assert only("text", run.get_text_sequence, "story").data == "once"
    weights = only("histogram", run.get_distribution_sequence, "weights")
    assert (weights.weights.sum(), weights.bin_count, list(weights.range)) == (513, 257, [0.0, 257.0])
