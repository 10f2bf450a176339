"""Media: each kind is in the run folder before its line is in the journal, and nothing handed in stops training."""

from __future__ import annotations

import importlib
import io
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples
import torch
from PIL import Image

from lib.journal import lines
from lib.options import ROOT
from lib.track import contents, settings
from lib.track.client import KINDS
from lib.track.media import takes_of
from lib.track.run import NullRun, Run
from lib.track.settings import PACKAGES, Settings


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    texts = {"config.json": "{}"}
    with Run.create(tmp_path / "runs", "project", "run", texts=texts, trackers=Settings(60)) as run:
        yield run


def media_of(run: Run) -> list[dict[str, Any]]:
    return [line.media for line in lines.read(run.store.path) if line.media]


def test_each_kind_is_a_line_and_a_whole_file(run: Run, tmp_path: Path) -> None:
    samples.everything(run, tmp_path)
    found = {media["kind"]: media for media in media_of(run)}
    assert found.keys() == KINDS
    for media in media_of(run):
        assert "file" not in media or (run.store.path / media["file"]).exists()
    assert not list((run.store.path / "media").glob(".*"))
    assert found["table"]["rows"] == [["cat", 2, 0.5], ["dog", None, "nan"], ["a|b", 3, 1e-9]]
    assert found["histogram"]["counts"] == np.histogram(samples.VALUES.numpy(), 10)[0].tolist()
    assert np.allclose(found["histogram"]["edges"], np.histogram(samples.VALUES.numpy(), 10)[1])
    with np.load(run.store.path / found["embedding"]["file"]) as kept:
        assert kept["vectors"].tolist() == samples.VECTORS.tolist() and kept["labels"].tolist() == samples.LABELS
    assert found["model"]["signature"] == {
        "inputs": [{"name": "0", "dtype": "float32", "shape": [-1, 4]}],
        "outputs": [{"name": "0", "dtype": "float32", "shape": [-1, 2]}],
    }
    saved = torch.load(run.store.path / found["model"]["file"])
    assert all(torch.equal(saved[name], value) for name, value in samples.network().state_dict().items())
    assert [node["op"] for node in found["graph"]["nodes"]] == ["placeholder", "Linear", "ReLU", "Linear", "output"]
    assert "call_module[target=0]" in (run.store.path / found["graph"]["file"]).read_text()


@pytest.mark.parametrize(
    ("image", "shape"),
    [
        (np.zeros((4, 6), np.uint8), (4, 6, 1)),
        (np.zeros((4, 6, 3), np.uint8), (4, 6, 3)),
        (torch.zeros(3, 4, 6), (4, 6, 3)),
        (torch.zeros(1, 4, 6, dtype=torch.bfloat16), (4, 6, 1)),
        (torch.ones(4, 6, dtype=torch.bool), (4, 6, 1)),
        (torch.zeros(4, 4, 6, dtype=torch.int64), (4, 6, 4)),
        (Image.new("P", (6, 4)), (4, 6, 4)),
    ],
)
def test_pictures_of_every_layout_and_type_are_read(image: Any, shape: tuple[int, ...]) -> None:
    found = contents.pixels(image)
    assert (found.shape, found.dtype) == (shape, np.uint8)


def test_floats_are_scaled_and_a_png_holds_them() -> None:
    picture = Image.open(io.BytesIO(contents.png(torch.tensor([[0.0, 0.5, 1.0, 7.0, float("nan")]]))))
    assert np.asarray(picture).tolist() == [[0, 128, 255, 255, 0]]


@pytest.mark.parametrize(
    ("kind", "arguments", "why"),
    [
        ("image", [np.zeros((5, 5, 7))], "its shape (5, 5, 7) is none of"),
        ("image", [np.array([[-1, 300]])], "it holds int64 from -1 to 300"),
        ("image", ["/absent.png"], "No such file"),
        ("video", [[]], "it has no frame"),
        ("video", ["film.avi"], "neither a .gif nor an .mp4"),
        ("table", [["a", "b"], [[1, 2], [3]]], "its row 1 has 1 cells, not 2"),
        ("histogram", [[float("nan")]], "no finite value"),
        ("figure", [object()], "savefig"),
        ("embedding", [torch.zeros(3)], "not numbers (N, D)"),
        ("embedding", [torch.zeros(3, 2), 7, ["a"]], "1 labels for 3 vectors"),
    ],
)
def test_what_cannot_be_read_is_one_warning_and_training_goes_on(
    run: Run, capsys: pytest.CaptureFixture[str], kind: str, arguments: list[Any], why: str
) -> None:
    options = {"labels": arguments.pop()} if len(arguments) == 3 else {}
    for _ in range(2):
        getattr(run, kind)("odd", *arguments, **options)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {kind} odd at step") and why in line
    assert media_of(run) == [] and not list((run.store.path / "media").glob("*"))


def test_what_no_tracker_could_show_is_not_logged(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "torn.gif").write_bytes(b"GIF")
    run.video("torn", tmp_path / "torn.gif")
    run.model(samples.network(), "half", signature={"inputs": []})
    assert media_of(run) == []
    torn, half = capsys.readouterr().err.splitlines()
    assert "cannot identify" in torn and "lacks inputs or outputs" in half


def test_what_json_has_not_does_not_stop_training(run: Run) -> None:
    tensor = {"name": "x", "dtype": torch.float32, "shape": torch.Size([-1, 4])}
    run.model(samples.network(), signature={"inputs": [tensor], "outputs": []})
    run.alert("rises", torch.tensor(2.5))  # type: ignore[arg-type]
    model, alert = media_of(run)
    assert model["signature"]["inputs"] == [{"name": "x", "dtype": "torch.float32", "shape": [-1, 4]}]
    assert alert["text"] == "tensor(2.5000)"


def test_an_artifact_stays_what_it_was_when_it_was_logged(run: Run, tmp_path: Path) -> None:
    run.store.checkpoints.mkdir()
    checkpoint, others = run.store.checkpoints / "last.pt", [tmp_path / "out.pt", run.store.path / "in.pt"]
    for path in (checkpoint, *others):
        path.write_text("then")
        run.artifact(path)
    for path in others:
        path.write_text("now")
    checkpoint.with_name("new").write_text("now")
    checkpoint.with_name("new").replace(checkpoint)
    run.artifact({"model": {"w": torch.ones(2)}, "optimizer": {"lr": 0.1}}, "checkpoint")
    *kept, state = (run.store.path / media["file"] for media in media_of(run))
    assert [path.read_text() for path in kept] == ["then"] * 3
    assert torch.load(state)["optimizer"] == {"lr": 0.1}
    run.artifact(tmp_path)  # holds the run folder itself
    assert len(media_of(run)) == 4


def test_without_a_step_media_is_at_the_highest_so_far_and_names_do_not_meet(run: Run) -> None:
    run.text("before", "")
    run.log({"loss": 1.0}, 7)
    for name in ("a/b", "a b", "../a"):
        run.image(name, np.zeros((2, 2)))
    found = [
        (line.step, line.media["file"]) for line in lines.read(run.store.path) if line.media and "file" in line.media
    ]
    assert found == [(7, "media/a_b-7.png"), (7, "media/a_b-7-2.png"), (7, "media/_a-7.png")]
    assert lines.read(run.store.path)[0].step == 0


def test_what_is_watched_is_logged_every_n_steps(run: Run) -> None:
    net = samples.network()
    run.watch(net, every=2)
    for step in range(4):
        net(torch.ones(1, 4)).sum().backward()
        run.observe(step)
        net.zero_grad()
    names = [f"{what}/{name}" for name, _ in net.named_parameters() for what in ("weights", "gradients")]
    assert [(line.step, line.media["name"]) for line in lines.read(run.store.path) if line.media] == [
        (step, name) for step in (0, 2) for name in names
    ]


def test_a_graph_that_depends_on_data_is_exported_with_an_example_or_told_by_its_modules() -> None:
    class Picky(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[0] > 1000:
                raise ValueError
            return self.inner(x) if bool(x.shape[1] == 2) else x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export's own use of what is deprecated
        assert any("linear" in node["op"] for node in contents.graph_of(Picky(), torch.zeros(3, 2))[1])
    assert contents.graph_of(Picky())[1] == [
        {"name": "network", "op": "Picky", "inputs": []},
        {"name": "inner", "op": "Linear", "inputs": ["network"]},
    ]


def test_a_process_without_a_journal_takes_every_call_and_does_nothing(tmp_path: Path) -> None:
    null = NullRun(tmp_path)
    null.image("a", "no picture")
    null.artifact(object())
    null.watch(samples.network())
    null.observe(1)
    assert list(tmp_path.iterdir()) == []


def test_a_kind_that_a_tracker_lacks_is_said_once(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    settings.write(run.store.trackers, {"tensorboard": {}})
    for step in range(3):
        run.alert("Look", step=step)
        run.text("story", "", step)
        run.alert("Look", step=step, trackers=["wandb"])
    assert capsys.readouterr().err.splitlines() == ["note: no alert goes to tensorboard; it stays in the run folder"]


@pytest.mark.parametrize("tracker", PACKAGES)
def test_the_table_of_the_docs_is_what_each_tracker_takes(tracker: str) -> None:
    section = (ROOT / "docs/experiment-tracking.md").read_text().partition("## Rich data")[2].partition("\n## ")[0]
    header, *rows = re.findall(r"^\| (?:kind|`[a-z]+`).*\|$", section, re.MULTILINE)
    column = [cell.strip() for cell in header.split("|")].index(tracker)
    cells = [[cell.strip(" `") for cell in row.split("|")] for row in rows]
    assert {row[1] for row in cells} == KINDS
    assert {row[1] for row in cells if row[column] != "–"} == takes_of(tracker)


@pytest.mark.parametrize("tracker", PACKAGES)
def test_what_is_read_from_the_source_is_what_the_class_takes(tracker: str) -> None:
    pytest.importorskip("tensorboard.summary" if tracker == "tensorboard" else tracker)
    assert takes_of(tracker) == importlib.import_module(f"lib.track.to_{tracker}").Tracker.takes <= KINDS


def test_the_journal_stays_json_for_everyone(run: Run) -> None:
    run.table("t", ["x"], [[float("inf")], [np.float32("nan")], [torch.tensor(2.5)]])
    (line,) = (run.store.path / lines.NAME).read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["media"]["rows"] == [["inf"], ["nan"], [2.5]]
