"""MLflow: a database beside the runs, or a server. A point is its own key there: sent twice, it is stored once.

The run is found by a tag of ours, never as MLflow's "current run": that belongs to a thread, and to nobody else.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it looks when it is imported
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # by default a dead server holds a call for five minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")  # seconds

import mlflow
import numpy as np
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.types import Schema, TensorSpec
from mlflow.utils.validation import (
    MAX_ENTITY_KEY_LENGTH,
    MAX_METRICS_PER_BATCH,
    MAX_PARAM_VAL_LENGTH,
    MAX_PARAMS_TAGS_PER_BATCH,
    MAX_TAG_VAL_LENGTH,
)

from lib.journal.lines import Line, Value
from lib.metrics import normalize
from lib.options import ROOT
from lib.track.client import ABSENT, Absent, Point, Target

ID = "kilter.id"  # the tag with the run's own identifier
NAMED = "kilter.name."  # + key: what a metric was called whose name MLflow refuses
LARGEST = sys.float_info.max  # what MLflow keeps of an infinity
T = TypeVar("T")


class Tracker:
    rebuilds = False
    withdraws = True
    repeats: Literal["all", "last", "first"] = "all"
    takes = frozenset(
        ["image", "video", "table", "text", "histogram", "figure", "embedding", "artifact", "model", "graph"]
    )

    def __init__(self, target: Target) -> None:
        self._target = target
        runs = target.runs
        given = target.options.get("uri") or os.environ.get("MLFLOW_TRACKING_URI")
        self._uri = _absolute(given) if given else f"sqlite:///{quote(str(runs))}/mlflow.db"
        self._artifacts = None if given else (runs / "mlartifacts").as_uri()  # else the store knows where
        self._client = mlflow.MlflowClient(self._uri)
        self._experiment = target.options.get("experiment") or target.project
        self._id = ""  # MLflow's own of this run
        self._named: set[str] = set()
        self._last: dict[str, tuple[int, int]] = {}  # name -> step and time [ms] of its newest point

    def start(self, *, fresh: bool) -> str:
        run = self._found()
        if run and fresh:
            self._forget(run.info.run_id)
            run = None
        run = run or self._create()
        self._id = run.info.run_id
        self._client.update_run(self._id, status="RUNNING")
        self._describe(run)
        if not self._uri.startswith("http"):
            return "make mlflow-show"
        return f"{self._uri.rstrip('/')}/#/experiments/{run.info.experiment_id}/runs/{self._id}"

    def holds(self, value: Value) -> Value | Absent:
        if not isinstance(value, bool | int | float):
            return ABSENT
        return value if value != value else float(max(-LARGEST, min(LARGEST, value)))  # nan stays

    def log(self, lines: Sequence[Line]) -> None:
        metrics = [
            Metric(self._key(name), value, self._time(name, line), line.step, **line.options.get("mlflow", {}))
            for line in lines
            for name, value in line.values.items()
        ]
        for some in _parts(metrics, MAX_METRICS_PER_BATCH):
            self._client.log_batch(self._id, metrics=some, synchronous=True)
        for line in lines:
            if line.media is not None:
                self._show(line, line.media)

    def finish(self, *, failed: bool) -> str:
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")
        return ""

    def stored(self) -> list[Point]:
        run = self._found()
        if run is None:
            return []
        names = {key: run.data.tags.get(NAMED + key, key) for key in run.data.metrics}
        histories = {names[key]: self._client.get_metric_history(run.info.run_id, key) for key in names}
        return [
            (point.step, name, point.value)
            for name, history in histories.items()
            for point in sorted(history, key=lambda point: point.timestamp)
        ]

    def _found(self) -> Run | None:
        experiment = self._client.get_experiment_by_name(self._experiment)
        if experiment is None:
            return None
        found = self._client.search_runs([experiment.experiment_id], f"tags.`{ID}` = '{self._target.id}'")
        return found[0] if found else None

    def _create(self) -> Run:
        try:
            experiment = self._client.create_experiment(self._experiment, self._artifacts)
        except MlflowException:  # it is there, or another run makes it at this moment
            found = self._client.get_experiment_by_name(self._experiment)
            if found is None:
                raise
            experiment = found.experiment_id
        return self._client.create_run(experiment, run_name=self._target.name, tags={ID: self._target.id})

    def _forget(self, run: str) -> None:
        for version in self._client.search_model_versions(f"run_id = '{run}'"):
            self._client.delete_model_version(version.name, version.version)
        self._client.delete_run(run)

    def _describe(self, run: Run) -> None:
        """The hyperparameters, which MLflow lets nobody change, as far as they are not there; and the tags."""
        config = {
            _allowed(name): str(value)[:MAX_PARAM_VAL_LENGTH] for name, value in normalize(self._target.config).items()
        }
        params = [Param(name, value) for name, value in config.items() if name not in run.data.params]
        for some in _parts(params, MAX_PARAMS_TAGS_PER_BATCH):
            self._client.log_batch(run.info.run_id, params=some, synchronous=True)
        options = self._target.options
        words = {_allowed(word): "true" for word in options.get("tags", [])}
        texts = {
            "group": options.get("group"),
            "job_type": options.get("job_type"),
            "mlflow.note.content": options.get("notes"),
        }
        tags = [RunTag(name, text[:MAX_TAG_VAL_LENGTH]) for name, text in {**words, **texts}.items() if text]
        for some in _parts(tags, MAX_PARAMS_TAGS_PER_BATCH):
            self._client.log_batch(run.info.run_id, tags=some, synchronous=True)

    def _key(self, name: str) -> str:
        """`name` as MLflow allows it; what it was is kept in a tag."""
        key = _allowed(name)
        if key != name and key not in self._named:
            self._client.set_tag(self._id, NAMED + key, name)
            self._named.add(key)
        return key

    def _time(self, name: str, line: Line) -> int:
        """When the point was logged [ms]; at a step that comes again later than before, so that their order is kept."""
        time = int(line.time * 1000)
        step, before = self._last.get(name, (None, 0))
        if step == line.step:
            time = max(time, before + 1)
        self._last[name] = line.step, time
        return time

    def _show(self, line: Line, media: Mapping[str, Any]) -> None:
        """Each has a place of its own among the run's artifacts, so that sending it again leaves one."""
        kind, name = media["kind"], re.sub(r"[^\w\-. /]", "_", _allowed(media["name"]), flags=re.ASCII)
        place = f"{kind}s/{name}/{line.step}"
        match kind:
            case "image" | "figure":
                self._picture(name, line, self._target.folder / media["file"])
            case "table":
                if not self._there(f"{place}.json"):  # MLflow would append to it
                    columns = {name: [row[i] for row in media["rows"]] for i, name in enumerate(media["columns"])}
                    self._client.log_table(self._id, columns, f"{place}.json")
            case "histogram":
                bins = {"counts": media["counts"], "edges": media["edges"]}
                self._client.log_dict(self._id, bins, f"{place}.json")
            case "text":
                self._client.log_text(self._id, media["text"], f"{place}.txt")
            case "model":
                self._model(place, media)
            case _:
                self._file(place, self._target.folder / media["file"])

    def _picture(self, name: str, line: Line, file: Path) -> None:
        """MLflow's viewer has a slider for the pictures of one name; it adds a random end to each one's file name."""
        time = int(line.time * 1000)
        if not self._there(f"images/{name.replace('/', '~')}+step+{line.step}+timestamp+{time}+"):
            self._client.log_image(self._id, mlflow.Image(str(file)), key=name, step=line.step, timestamp=time)

    def _model(self, place: str, media: Mapping[str, Any]) -> None:
        """The file, with the description that makes it a model to MLflow; registered where a name is given."""
        signature = media.get("signature") and _signature(media["signature"])
        about = Model(artifact_path=place, run_id=self._id, signature=signature)
        self._client.log_text(self._id, about.to_yaml(), f"{place}/{MLMODEL_FILE_NAME}")
        self._file(place, self._target.folder / media["file"])
        name, source = media.get("registered_name"), f"runs:/{self._id}/{place}"
        if not name:
            return
        with contextlib.suppress(MlflowException):  # there is one of that name
            self._client.create_registered_model(name)
        ours = self._client.search_model_versions(f"run_id = '{self._id}'")
        if not any(version.name == name and version.tags.get(ID) == place for version in ours):
            self._client.create_model_version(name, source, self._id, tags={ID: place})

    def _file(self, place: str, path: Path) -> None:
        if path.is_dir():
            self._client.log_artifacts(self._id, str(path), place)
        else:
            self._client.log_artifact(self._id, str(path), place)

    def _there(self, path: str) -> bool:
        """Whether there is an artifact whose path begins so."""
        return any(
            file.path.startswith(path) for file in self._client.list_artifacts(self._id, posixpath.dirname(path))
        )


def _allowed(name: str) -> str:
    """The nearest name that MLflow takes: of letters, digits, `_-. :`, and `/` between them."""
    words = [word for word in re.sub(r"[^\w\-. :/]", "_", name).split("/") if word.strip(".")]
    return "/".join(words)[: MAX_ENTITY_KEY_LENGTH - len(NAMED)].rstrip("/") or "_"


def _signature(told: Mapping[str, Any]) -> ModelSignature:
    """`told` has the tensors under `inputs` and `outputs`: `name`, `dtype`, and `shape` with -1 for any size."""

    def schema(tensors: Sequence[Mapping[str, Any]]) -> Schema:
        return Schema([TensorSpec(_dtype(one["dtype"]), tuple(one["shape"]), one.get("name")) for one in tensors])

    return ModelSignature(schema(told["inputs"]), schema(told["outputs"]))


def _dtype(name: str) -> np.dtype[Any]:
    """torch has types that numpy has not, as bfloat16."""
    try:
        return np.dtype(name.removeprefix("torch."))
    except TypeError:
        return np.dtype(object)


def _absolute(uri: str) -> str:
    """`uri`, where a relative file counts from the repository: each run works in a folder of its own."""
    _, scheme, file = uri.rpartition("sqlite:///")
    return f"sqlite:///{ROOT / file}" if scheme else uri


def _parts(items: list[T], most: int) -> Iterator[list[T]]:
    return (items[begin : begin + most] for begin in range(0, len(items), most))
