"""Comet, in the cloud or offline. Offline it writes an archive, closed at the end: each start writes it anew.

The cloud appends what it is sent and can't take it back, so there only what is new goes, and a rewind is another run.
"""

from __future__ import annotations

import importlib
import json
import os
import shlex
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from lib.errors import Refused
from lib.journal.lines import Line, Value
from lib.track.client import ABSENT, Absent, Point, Target

QUIET = {"COMET_ERROR_TRACKING_ENABLE": "0", "COMET_AUTO_LOG_ENV_DETAILS": "0", "COMET_DISABLE_AUTO_LOGGING": "1"}
OFF = ("disabled", "log_code", "log_graph", "parse_args", "log_git_metadata", "log_git_patch", "log_env_details",
       "log_env_gpu", "log_env_host", "log_env_cpu", "log_env_network", "log_env_disk", "auto_output_logging",
       "auto_param_logging", "auto_metric_logging", "auto_log_co2")  # fmt: skip
OWN = "process duration"  # a metric that Comet adds at the end


class Tracker:
    repeats: Literal["all", "last", "first"] = "all"
    takes = frozenset(["image", "figure", "video", "text", "histogram", "table", "artifact", "model"])

    def __init__(self, target: Target) -> None:
        self._target = target
        self._folder = target.folder / "comet"
        self._key = target.id.replace("-", "")  # Comet's keys are letters and digits
        self._comet = _comet()
        self._offline, self._why = self._mode()
        self.rebuilds = self.withdraws = self._offline
        self._experiment: Any = None  # one of Comet's classes; the package is not there in every environment

    def start(self, *, fresh: bool) -> str:
        told = self._target.options
        if self._offline:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(exist_ok=True)
        tempfile.tempdir = str(self._folder)  # Comet collects the archive there, and a killed process leaves it there
        self._experiment = self._comet.start(
            online=not self._offline,
            mode="create" if self._offline else "get_or_create",
            experiment_key=self._key,
            project_name=told.get("project") or self._target.project,
            workspace=told.get("workspace") or None,
            experiment_config=self._comet.ExperimentConfig(
                **dict.fromkeys(OFF, False),
                display_summary_level=0,
                offline_directory=str(self._folder),
                name=self._target.name,
                tags=told.get("tags") or None,
            ),
        )
        self._experiment.log_parameters(self._target.config)
        self._experiment.log_others({name: text for name in ("notes", "group", "job_type") if (text := told.get(name))})
        return f"offline{self._why}" if self._offline else str(self._experiment.url)

    def holds(self, value: Value) -> Value | Absent:
        if isinstance(value, bool):
            return int(value)
        return value if isinstance(value, int | float) else ABSENT

    def log(self, lines: Sequence[Line]) -> None:
        message = self._comet.messages.MetricMessage
        for line in lines:
            epoch = line.options.get("comet_ml", {}).get("epoch")
            for name, value in line.values.items():
                point = message(timestamp=int(line.time * 1000))  # `log_metric` would stamp it with the time of now
                point.set_metric(name, value, step=line.step, epoch=epoch)
                self._experiment._enqueue_message(point)
            if line.media:
                self._show(line.media, line.step)
        if not self._offline and not self._experiment.flush():
            raise OSError("comet.com has not taken the points")

    def finish(self, *, failed: bool) -> str:
        if failed:
            self._experiment._report_experiment_error("the run failed", has_crashed=True)  # no public name
        self._experiment.end()
        return f"comet upload {shlex.quote(str(self._archive))}" if self._offline else ""

    def stored(self) -> list[Point]:
        if not self._offline:
            raise Refused("comet_ml: only an offline archive can be read back. Set COMET_ML_OFFLINE=y")
        with zipfile.ZipFile(self._archive) as archive:
            messages = [json.loads(line) for line in archive.read("messages.json").splitlines()]
        points = [message["payload"]["metric"] for message in messages if message["type"] == "metric_msg"]
        return [(p["step"], p["metricName"], _number(p["metricValue"])) for p in points if p["metricName"] != OWN]

    @property
    def _archive(self) -> Path:
        return self._folder / f"{self._key}.zip"

    def _mode(self) -> tuple[bool, str]:
        """Whether it runs offline, and why: the option, then COMET_START_ONLINE, then whether there is a key."""
        if self._target.options.get("offline"):
            return True, ""
        config = self._comet.get_config()
        if config["comet.start.online"] is False:
            return True, " (COMET_START_ONLINE)"
        keyed = self._comet.config.get_api_key(None, config)
        return (False, "") if keyed else (True, " (no key: `comet login`, or COMET_API_KEY)")

    def _show(self, media: dict[str, Any], step: int) -> None:
        kind, name = media["kind"], media["name"]
        file = str(self._target.folder / media.get("file", ""))
        if kind in ("image", "figure"):
            self._experiment.log_image(file, name=name, step=step)
        elif kind == "video":
            self._experiment.log_video(file, name=name, step=step)
        elif kind == "text":
            self._experiment.log_text(media["text"], step=step, metadata={"name": name})
        elif kind == "histogram":
            self._experiment.log_histogram_3d(self._histogram(media), name=name, step=step)
        elif kind == "table":
            self._experiment.log_table(f"{name}-{step}.csv", media["rows"], headers=media["columns"])
        elif kind == "model":
            self._experiment.log_model(name, file)
        elif Path(file).is_dir():
            self._experiment.log_asset_folder(file, step=step, log_file_name=True, recursive=True)
        else:
            self._experiment.log_asset(file, file_name=name, step=step)

    def _histogram(self, media: dict[str, Any]) -> Any:
        """Comet's own bins, filled at the middle of each of ours."""
        histogram = self._comet.data_structure.Histogram()
        histogram.add([(low + high) / 2 for low, high in pairwise(media["edges"])], counts=media["counts"])
        return histogram


def _comet() -> Any:
    """The package. From its import on it reports errors home and hooks other packages, unless these say no."""
    for name, text in QUIET.items():
        os.environ.setdefault(name, text)
    return importlib.import_module("comet_ml")


def _number(held: float | str) -> float:
    """Comet's JSON has NaN, Infinity and -Infinity as texts."""
    return held if isinstance(held, int | float) else float(held)
