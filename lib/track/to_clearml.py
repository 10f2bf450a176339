"""ClearML: a server, or an archive in the run folder. A server keeps one value of a name at a step: sent twice, it is
stored once. An archive can't be corrected: each start writes it anew.

Values go to its writer of events itself: that says how it went and takes the time at which a value was logged, where
`report_scalar` hands over to a thread and knows only the time of the call.
"""

from __future__ import annotations

import io
import json
import math
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from clearml import Task
from clearml.backend_config.defs import get_active_config_file
from clearml.backend_interface.metrics.events import ScalarEvent

from lib.files import write_whole
from lib.journal.lines import Line, Value
from lib.metrics import normalize
from lib.track.client import ABSENT, Absent, Point, Target, as_float

MOST = 1000  # events in one request
SERVER = ("CLEARML_API_HOST", "CLEARML_API_ACCESS_KEY")  # either names one where there is no clearml.conf
FRAMEWORKS = (
    "matplotlib", "tensorflow", "tensorboard", "pytorch", "xgboost", "scikit", "fastai", "lightgbm", "hydra",
    "detect_repository", "tfdefines", "joblib", "megengine", "catboost", "gradio", "jsonargparse",
)  # fmt: skip


class Tracker:
    withdraws = True
    takes = frozenset(["image", "video", "table", "text", "histogram", "figure", "artifact"])

    def __init__(self, target: Target) -> None:
        self._target = target
        self._folder = target.folder / "clearml"
        self._kept = target.folder / "trackers" / "clearml.id"
        self._offline, self._why = _offline(bool(target.options.get("offline")))
        self.rebuilds = self._offline
        self.repeats: Literal["all", "last", "first"] = "all" if self._offline else "last"
        self._task: Any = None  # clearml.Task; the package has no types

    def start(self, *, fresh: bool) -> str:
        if self._offline:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.environ["CLEARML_CACHE_DIR"] = str(self._folder)
            Task.set_offline(True)
        known = self._known()
        if known and fresh:
            Task.get_task(task_id=known).delete()
            known = None
        Task._report_subprocess_enabled = False  # this process has nothing else to do; closing waits 10 s for another
        self._task = Task.init(
            project_name=self._target.options.get("project") or self._target.project,
            task_name=self._target.name,
            tags=self._target.options.get("tags"),
            reuse_last_task_id=known or False,
            continue_last_task=0 if known else False,  # steps as they are, where True would add the last one
            auto_connect_arg_parser=False,
            auto_connect_frameworks=dict.fromkeys(FRAMEWORKS, False),
            auto_connect_streams=False,
            auto_resource_monitoring=False,
        )
        if not self._offline:
            write_whole(self._kept, self._task.id)
        self._describe()
        return f"offline{self._why}" if self._offline else str(self._task.get_output_log_web_page())

    def holds(self, value: Value) -> Value | Absent:
        """ClearML writes 0 for what is not finite: nothing is nearer to the truth."""
        number = as_float(value) if isinstance(value, int | float) else math.nan
        return number if math.isfinite(number) else ABSENT

    def log(self, lines: Sequence[Line]) -> None:
        events = [
            ScalarEvent(*_titled(name), value=value, iter=line.step, timestamp=int(line.time * 1000))
            for line in lines
            for name, value in line.values.items()
        ]
        for begin in range(0, len(events), MOST):
            said = self._task._reporter._metrics.write_events(events[begin : begin + MOST], async_enable=False)
            if said is not None and not said.ok():
                raise RuntimeError(f"the server does not take values: {said.meta}")
        media = [(line.step, line.media) for line in lines if line.media is not None]
        for step, shown in media:
            self._show(step, shown)
        if media:
            self._task.flush(wait_for_uploads=True)

    def finish(self, *, failed: bool) -> str:
        if failed and self._offline:  # an archive has no state
            self._task.add_tags(["failed"])
        name, archive = self._task.id, self._task.get_offline_mode_folder()
        self._task.close()
        if self._offline:
            return f"clearml-task --import-offline-session {shlex.quote(f'{archive}.zip')}"
        if failed:  # closing has marked it completed
            Task.get_task(task_id=name).mark_failed(status_reason="the run failed", force=True)
        return ""

    def stored(self) -> list[Point]:
        if self._offline:
            batches = [
                line for file in self._folder.glob("offline/*/metrics.jsonl") for line in file.read_text().splitlines()
            ]
            events = [event for batch in batches for event in json.loads(batch)]
            scalars = [event for event in events if event["type"] == "training_stats_scalar"]
            return [(event["iter"], _name(event["metric"], event["variant"]), event["value"]) for event in scalars]
        known = self._known()
        titles = Task.get_task(task_id=known).get_all_reported_scalars() if known else {}
        curves = {_name(title, one): curve for title, series in titles.items() for one, curve in series.items()}
        pairs = ((name, *point) for name, curve in curves.items() for point in zip(curve["x"], curve["y"], strict=True))
        return [(int(step), name, value) for name, step, value in pairs]

    def _known(self) -> str | None:
        """The identifier of the run on the server."""
        return self._kept.read_text() if not self._offline and self._kept.exists() else None

    def _describe(self) -> None:
        options = self._target.options
        self._task.set_parameters(
            {f"General/{name}": str(value) for name, value in normalize(self._target.config).items()}
        )
        self._task.set_user_properties(**{name: options[name] for name in ("group", "job_type") if options.get(name)})
        if options.get("notes"):
            self._task.set_comment(options["notes"])

    def _show(self, step: int, media: Mapping[str, Any]) -> None:
        logger = self._task.get_logger()
        title, series = _titled(media["name"])
        file = str(self._target.folder / media["file"]) if "file" in media else None
        match media["kind"]:
            case "image" | "figure":
                logger.report_image(title, series, step, local_path=file, max_image_history=-1)
            case "video":
                logger.report_media(title, series, step, local_path=file, max_history=-1)
            case "text":
                text = io.StringIO(media["text"])
                logger.report_media(title, series, step, stream=text, file_extension=".txt", max_history=-1)
            case "table":
                logger.report_table(title, series, step, table_plot=[media["columns"], *media["rows"]])
            case "histogram":
                lower = [f"{edge:.4g}" for edge in media["edges"][:-1]]
                logger.report_histogram(title, series, media["counts"], step, xlabels=lower)
            case "artifact":
                self._task.upload_artifact(f"{media['name']}-{step}", Path(str(file)), wait_on_upload=True)


def _titled(name: str) -> tuple[str, str]:
    """The plot and the curve in it: `val/loss` lies with the others of `val`, `loss` alone."""
    title, _, series = name.partition("/")
    return (title, series) if title and series and title != series else (name, name)


def _name(title: str, series: str) -> str:
    return title if title == series else f"{title}/{series}"


def _offline(asked: bool) -> tuple[bool, str]:
    """Whether to write an archive, and why: the option, then CLEARML_OFFLINE_MODE, then whether a server is known."""
    if asked:
        return True, ""
    if Task.is_offline():
        return True, " (CLEARML_OFFLINE_MODE)"
    known = get_active_config_file() or any(os.environ.get(name) for name in SERVER)
    return (False, "") if known else (True, " (no server: `clearml-init`, or CLEARML_API_HOST)")
