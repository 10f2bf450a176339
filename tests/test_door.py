"""Accelerate's door: a user's own script, one journal line a log call, every tracker behind it, phases, faults."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("accelerate")

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

from lib.errors import Refused
from lib.journal import folder, lines
from lib.options import ROOT
from lib.track import check, dialect, settings
from lib.track.client import connect
from lib.track.door import KilterTracker
from lib.track.run import Run
from lib.track.settings import Settings

SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from accelerate import Accelerator
from lib.track.door import KilterTracker
accelerator = Accelerator(cpu=True, log_with=KilterTracker.all(["tensorboard"], runs={runs!r}))
accelerator.init_trackers("project")
accelerator.log({{"loss": 0.5}}, step=0)
{end}
"""


class Recorder(GeneralTracker):
    """A custom tracker that keeps what it is given."""

    name = "recorder"
    requires_logging_directory = False

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.given: list[Any] = []
        self.fault = fault

    @property
    def tracker(self) -> list[Any]:
        return self.given

    def start(self) -> None:
        self._keep("start", "start")

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        self._keep("config", values)

    def log(self, values: Mapping[str, Any], step: int | None = None, **options: Any) -> None:
        self._keep("log", (step, dict(values), options))

    def finish(self) -> None:
        self._keep("finish", "finish")

    def _keep(self, what: str, given: object) -> None:
        if self.fault in ("all", what):
            raise OSError(f"no {what}")
        self.given.append(given)


def opened(
    runs: Path, trackers: Any, *, project: str = "project", init_kwargs: Any = None, **symbols: Any
) -> Accelerator:
    accelerator = Accelerator(cpu=True, log_with=KilterTracker.all(trackers, runs=runs, **symbols))
    accelerator.init_trackers(project, {"lr": 0.1, "adam": {"beta": 0.9}}, init_kwargs=init_kwargs)
    return accelerator


@pytest.fixture
def untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal alone, where that is what a test looks at: starting trackers takes seconds."""
    monkeypatch.setattr(Run, "_start_sidecar", lambda _: None)


def the_run(runs: Path, project: str = "project") -> folder.RunFolder:
    (path,) = (runs / project).iterdir()
    return folder.RunFolder(path)


def test_each_log_is_one_line_and_every_tracker_has_every_point(tmp_path: Path) -> None:
    project = f"door-{tmp_path.name}"
    accelerator = opened(tmp_path, ["trackio", "tensorboard", "wandb"], project=project)
    for step in range(50):
        accelerator.log(check.curves(step), step=step)
        assert len(lines.read(the_run(tmp_path, project).path)) == step + 1  # durable when log returns
    accelerator.get_tracker("wandb").log({"alone": 1.0}, step=50)
    accelerator.log({"last": {"nested": np.float32(0.5)}})
    accelerator.end_training()
    store = the_run(tmp_path, project)
    found = lines.read(store.path)
    assert [line.to for line in found] == [()] * 50 + [("wandb",), ()]
    assert (found[-1].step, found[-1].values) == (51, {"last/nested": 0.5})
    for name, points in {"trackio": 301, "tensorboard": 301, "wandb": 302}.items():
        assert check.compare(name, store) == (points, [], points), name
    assert store.state() == "finished"
    assert store.configuration["values"] == {"lr": 0.1, "adam/beta": 0.9}


def test_each_phase_is_a_run_of_its_own(tmp_path: Path) -> None:
    mine = Recorder()
    accelerator = Accelerator(cpu=True, log_with=KilterTracker.all(["tensorboard", mine], runs=tmp_path))
    for phase, loss in (("pretraining", 1.0), ("finetuning", 2.0)):
        accelerator.init_trackers(phase, config={"phase": phase})
        accelerator.log({"loss": loss}, step=0)
        accelerator.end_training()
    for phase, loss in (("pretraining", 1.0), ("finetuning", 2.0)):
        store = the_run(tmp_path, phase)
        assert [line.values for line in lines.read(store.path)] == [{"loss": loss}]
        assert connect("tensorboard", store).stored() == [(0, "loss", loss)]
        assert store.configuration["values"] == {"phase": phase}
    assert [given for given in mine.given if isinstance(given, tuple)] == [
        (0, {"loss": 1.0}, {}),
        (0, {"loss": 2.0}, {}),
    ]


@pytest.mark.usefixtures("untracked")
def test_where_accelerate_is_not_recognised_each_proxy_writes_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator = opened(tmp_path, ["trackio", "tensorboard"])
    monkeypatch.setattr("lib.track.door._is", lambda *_: False)
    accelerator.log({"loss": 1.0}, step=3)
    accelerator.end_training()
    found = lines.read(the_run(tmp_path).path)
    assert [(line.step, line.to) for line in found] == [(3, ("trackio",)), (3, ("tensorboard",))]


@pytest.mark.usefixtures("untracked")
def test_a_phase_that_was_not_ended_is_ended_by_the_next(tmp_path: Path) -> None:
    accelerator = opened(tmp_path, ["tensorboard", "trackio"], project="one")
    accelerator.init_trackers("two")
    accelerator.log({"loss": 1.0}, step=0)
    accelerator.end_training()
    assert the_run(tmp_path, "one").state() == the_run(tmp_path, "two").state() == "finished"
    assert [len(lines.read(the_run(tmp_path, name).path)) for name in ("one", "two")] == [0, 1]


@pytest.mark.parametrize("fault", ["start", "config", "log", "finish", "all"])
@pytest.mark.parametrize("place", ["within all", "beside it"])
@pytest.mark.usefixtures("untracked")
def test_a_custom_tracker_that_raises_warns_once_and_stops_no_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str, place: str
) -> None:
    broken, sound = Recorder(fault), Recorder()
    sound.name = "sound"
    within = [broken, sound] if place == "within all" else []
    beside = [] if within else [broken, sound]
    trackers = [*KilterTracker.all(["tensorboard", *within], runs=tmp_path), *beside]
    accelerator = Accelerator(cpu=True, log_with=trackers)
    accelerator.init_trackers("project", {"lr": 0.1})
    for step in range(3):
        accelerator.log({"loss": float(step)}, step=step)
    accelerator.end_training()
    assert len(sound.given) == 6
    warned = [line for line in capsys.readouterr().err.splitlines() if "recorder" in line]
    assert len(warned) == 1 and "OSError: no " in warned[0]
    assert len(lines.read(the_run(tmp_path).path)) == 3


@pytest.mark.usefixtures("untracked")
def test_options_of_one_log_call_reach_their_tracker_alone(tmp_path: Path) -> None:
    mine = Recorder()
    accelerator = opened(tmp_path, ["tensorboard", "trackio", mine])
    given = {"tensorboard": {"walltime": 1.5}, "recorder": {"commit": False}, "absent": {"x": 1}}
    accelerator.log({"loss": 1.0}, step=3, log_kwargs=given)
    accelerator.get_tracker("trackio").log({"loss": 2.0}, step=4, place=tmp_path)
    accelerator.end_training()
    first, second = lines.read(the_run(tmp_path).path)
    assert first.options == {"tensorboard": {"walltime": 1.5}}
    assert (second.to, second.options) == (("trackio",), {"trackio": {"place": str(tmp_path)}})
    assert (3, {"loss": 1.0}, {"commit": False}) in mine.given


@pytest.mark.usefixtures("untracked")
def test_what_init_kwargs_say_becomes_the_trackers_options_or_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {
        "wandb": {"entity": "team", "tags": ("a", "b"), "mode": "offline", "name": "mine", "resume": "never"},
        "tensorboard": {"flush_secs": 60},
    }
    opened(tmp_path, ["wandb", "tensorboard"], init_kwargs=told, tracker_notes="why").end_training()
    (store,) = map(folder.RunFolder, (tmp_path / "project").iterdir())
    options = settings.read(store.trackers)
    assert {name: options["wandb"][name] for name in ("entity", "tags", "offline", "name", "notes")} == {
        "entity": "team", "tags": ["a", "b"], "offline": True, "name": "mine", "notes": "why",
    }  # fmt: skip
    assert store.name == "mine"
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note")]
    assert notes == [
        "note: init_kwargs: wandb is not told resume; Kilter has no such option for it",
        "note: init_kwargs: tensorboard is not told flush_secs; Kilter has no such option for it",
    ]


def test_each_trackers_own_words_become_ours() -> None:
    told = {
        "mlflow": {"experiment_name": "e", "run_name": "r", "tags": {"version": "v1"}, "description": "d"},
        "clearml": {"task_name": "t", "project_name": "p"},
        "comet_ml": {"online": False, "workspace": None},
    }
    options, unused = dialect.options(["mlflow", "clearml", "comet_ml"], told)
    assert unused == []
    assert options == {
        "mlflow": {"experiment": "e", "name": "r", "tags": ["version=v1"], "notes": "d"},
        "clearml": {"name": "t", "project": "p"},
        "comet_ml": {"offline": True},
    }


def test_a_process_that_ends_without_end_training_drains_and_its_run_has_failed(tmp_path: Path) -> None:
    ends = {"raise KeyboardInterrupt": "interrupted", "sys.exit(0)": "failed"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT.format(root=str(ROOT), runs=str(tmp_path / status / end[:5]), end=end)],
            cwd=tmp_path,
            stderr=subprocess.DEVNULL,
        )
        for end, status in ends.items()
    ]
    for process in processes:
        process.wait()
    for end, status in ends.items():
        store = the_run(tmp_path / status / end[:5])
        assert store.state() == status
        assert connect("tensorboard", store).stored() == [(0, "loss", 0.5)]


@pytest.mark.usefixtures("untracked")
def test_end_training_while_an_exception_passes_marks_the_run_failed(tmp_path: Path) -> None:
    accelerator = opened(tmp_path, ["tensorboard"])
    with pytest.raises(ZeroDivisionError):
        try:
            accelerator.log({"loss": 1 / 0})
        finally:
            accelerator.end_training()
    assert the_run(tmp_path).state() == "failed"


@pytest.mark.usefixtures("untracked")
def test_what_is_logged_outside_a_run_is_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accelerator = opened(tmp_path, ["tensorboard"])
    accelerator.end_training()
    for _ in range(3):
        accelerator.log({"loss": 1.0})
    assert capsys.readouterr().err.count("is not kept") == 1


@pytest.mark.usefixtures("untracked")
def test_media_of_one_proxy_go_to_its_tracker_alone(tmp_path: Path) -> None:
    accelerator = opened(tmp_path, ["wandb", "tensorboard"])
    accelerator.get_tracker("wandb").log_images({"samples": np.zeros((2, 8, 8, 3))}, step=1)
    accelerator.get_tracker("wandb").log_table("predictions", ["truth", "guess"], [[1, 2]], step=1)
    writer = accelerator.get_tracker("tensorboard").writer
    writer.add_histogram("weights", np.arange(10), 2)
    writer.add_scalar("loss", 0.25, 2)
    accelerator.end_training()
    found = lines.read(the_run(tmp_path).path)
    media = [(line.step, line.to, line.media["kind"], line.media["name"]) for line in found if line.media]
    assert media == [
        (1, ("wandb",), "image", "samples/0"),
        (1, ("wandb",), "image", "samples/1"),
        (1, ("wandb",), "table", "predictions"),
        (2, ("tensorboard",), "histogram", "weights"),
    ]
    assert (found[-1].to, found[-1].values) == (("tensorboard",), {"loss": 0.25})


def test_a_native_object_is_there_when_it_is_declared_and_false_when_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on = Settings(60, enable_tensorboard=True, enable_trackio=True, tracker_native="tensorboard")
    with Run.create(tmp_path, "native", "run", texts={"config.json": "{}"}, trackers=on) as run:
        run.log({"loss": 1.0}, 0)
        run.get_tracker("trackio").log({"loss": 2.0}, 1)
        run.get_tracker("tensorboard", unwrap=True).add_scalar("mine", 0.5, 7)
        for absent in (run.get_tracker("trackio", unwrap=True), run.get_tracker("wandb", unwrap=True)):
            assert not absent
            absent.watch(None).anything["at"] = absent.all()
        assert not run.get_tracker("wandb")
        run.finish({})
    said = "warning: trackio lives in a process of its own; TRACKER_NATIVE=trackio gives its own object to this one too"
    assert capsys.readouterr().err.count(said) == 1
    for name in ("tensorboard", "trackio"):
        assert check.compare(name, run.store)[1] == [], name
    assert len(connect("tensorboard", run.store).stored()) == 1
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    native = EventAccumulator(str(tmp_path / "native" / "run-native" / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in native.Scalars("mine")] == [(7, 0.5)]


def test_a_name_that_is_no_trackers_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(Refused, match="did you mean wandb"):
        KilterTracker.all(["wandbb"])
