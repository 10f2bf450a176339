"""Trackio: a local SQLite database, a Space or a server. Each point has a key: sent twice, it is there once."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import trackio
from huggingface_hub import get_token
from trackio.media.utils import get_project_media_path
from trackio.remote_client import RemoteClient
from trackio.sqlite_storage import SQLiteStorage
from trackio.utils import MEDIA_DIR, RESERVED_KEYS, deserialize_values, parse_trackio_server_url, serialize_values
from trackio.utils import resolve_space_id_and_server_url as where

from lib.errors import Refused
from lib.journal.lines import Line, Value
from lib.track.client import Absent, Point, Target, as_float

ANSWER_S = 30.0  # a server that says nothing for so long is taken for dead
ROWS = 1000  # in one request
OWN = ("step", "timestamp")  # columns of Trackio's, beside the values
LEAST = -(2**63)  # whole numbers from it on; beyond 64 bits Trackio's JSON has none
NO_ROW = ("alert", "artifact", "model")  # kinds that are kept elsewhere
Row = Mapping[str, Any]  # of the database, in the form in which a server takes it


class Tracker:
    rebuilds = False
    repeats: Literal["all", "last", "first"] = "all"
    takes = frozenset(["image", "video", "table", "text", "histogram", "figure", "alert", "artifact", "model"])

    def __init__(self, target: Target) -> None:
        self._target = target
        self._ours = {"project": target.project, "run": target.name, "run_id": target.id}
        self._space, self._server = where(target.options.get("space_id") or None, None)
        self._token = get_token() if self._space else None
        self.withdraws = not self._space  # there only a person who is logged in may delete
        self._remote: RemoteClient | None = None
        self._run: Any = None  # trackio.Run; the package has no type for it at its top level

    def start(self, *, fresh: bool) -> str:
        target, told = self._target, self._target.options
        self._remote = self._connected()
        if fresh and self._remote:
            self._remote.predict(api_name="/delete_run", **self._ours)
        elif fresh:
            SQLiteStorage.delete_run(**self._ours)
        self._run = trackio.init(
            project=target.project,
            name=target.name,
            group=told.get("group") or None,
            space_id=self._space,
            config={name: told[name] for name in ("tags", "notes", "job_type") if told.get(name)} | target.config,
            embed=False,
            auto_log_gpu=bool(told.get("samples_gpus")),
            auto_log_cpu=False,
        )
        self._run.id = target.id  # its own would be new at each attempt
        return self._run.url or "make trackio-show"

    def holds(self, value: Value) -> Value | Absent:
        if isinstance(value, int) and not LEAST <= value < -LEAST:
            value = as_float(value)
        held: Value = deserialize_values({"": value})[""]  # the text "NaN" comes back as the number
        odd = isinstance(held, float) and not math.isfinite(held)
        return None if odd and (self._space or self._server) else held  # a server answers null

    def log(self, lines: Sequence[Line]) -> None:
        rows = [self._row(line) for line in lines if line.media is None or line.media["kind"] not in NO_ROW]
        for begin in range(0, len(rows), ROWS):
            self._write(rows[begin : begin + ROWS])
        for line in lines:
            if line.media and line.media["kind"] in NO_ROW:
                (self._ring if line.media["kind"] == "alert" else self._file)(line, line.media)

    def finish(self, *, failed: bool) -> str:
        self._run.finish()
        return ""

    def stored(self) -> list[Point]:
        if remote := self._connected():
            runs = [{"run": self._target.name, "run_id": self._target.id}]
            found = remote.predict(api_name="/get_logs_batch", project=self._target.project, runs=runs, max_points=None)
            logs = [deserialize_values(row) for one in found for row in one["logs"]]
        else:
            logs = SQLiteStorage.get_logs(**self._ours)
        return [
            (row["step"], name.removeprefix("__") if name.removeprefix("__") in RESERVED_KEYS else name, value)
            for row in logs
            for name, value in row.items()
            if name not in OWN and not isinstance(value, Mapping)
        ]

    def _connected(self) -> RemoteClient | None:
        """A line to the Space or the server that the run goes to; None for the local database."""
        if self._space is None and self._server is None:
            return None
        token = parse_trackio_server_url(self._server)[1] if self._server else None
        return RemoteClient(
            self._space or self._server,
            hf_token=self._token,
            write_token=token or os.environ.get("TRACKIO_WRITE_TOKEN"),
            httpx_kwargs={"timeout": ANSWER_S},
        )

    def _row(self, line: Line) -> Row:
        shown = {line.media["name"]: self._shown(line, line.media)} if line.media else line.values
        taken = {f"__{name}" if name in RESERVED_KEYS else name: value for name, value in shown.items()}
        return {
            "metrics": serialize_values(taken),
            "step": line.step,
            "timestamp": _time(line),
            "log_id": self._key(line),
        }

    def _write(self, rows: Sequence[Row]) -> None:
        if self._remote:
            entries = [{**self._ours, **row} for row in rows]
            entries[0]["config"] = serialize_values(self._run.config)
            self._remote.predict(api_name="/bulk_log", logs=entries, hf_token=self._token)
            return
        columns = {"metrics_list": "metrics", "steps": "step", "timestamps": "timestamp", "log_ids": "log_id"}
        SQLiteStorage.bulk_log(
            **self._ours,
            **{argument: [row[name] for row in rows] for argument, name in columns.items()},
            config=self._run.config,
        )

    def _shown(self, line: Line, media: Mapping[str, Any]) -> Row:
        """What a cell of the database holds of a picture, a table, …"""
        match media["kind"]:
            case "image" | "figure":
                return self._picture(line, media, trackio.Image.TYPE)
            case "video":
                return self._picture(line, media, trackio.Video.TYPE)
            case "table":
                rows = [dict(zip(media["columns"], row, strict=True)) for row in media["rows"]]
                return {"_type": trackio.Table.TYPE, "_value": rows}
            case "histogram":
                return {"_type": trackio.Histogram.TYPE, "bins": media["edges"], "values": media["counts"]}
        return {"_type": trackio.Markdown.TYPE, "_value": media["text"]}

    def _picture(self, line: Line, media: Mapping[str, Any], kind: str) -> Row:
        """Put the file where the dashboard looks for it, under a name of its own: put there twice, it is there once."""
        file = self._target.folder / media["file"]
        place = get_project_media_path(project=self._target.project, run=self._target.name, step=line.step)
        place /= self._key(line) + file.suffix
        shutil.copyfile(file, place)
        if self._remote:
            sent = {"path": str(place), "orig_name": place.name, "meta": {"_type": "gradio.FileData"}}
            upload = {**self._ours, "step": line.step, "relative_path": None, "uploaded_file": sent}
            self._remote.predict(api_name="/bulk_upload_media", uploads=[upload], hf_token=self._token)
        return {"_type": kind, "file_path": str(place.relative_to(MEDIA_DIR)), "caption": media.get("caption") or None}

    def _ring(self, line: Line, media: Mapping[str, Any]) -> None:
        alert = {"title": media["title"], "text": media["text"], "level": media["level"], "step": line.step}
        stamp = {"timestamp": _time(line), "alert_id": self._key(line)}
        if self._remote:
            entry = {**self._ours, **alert, **stamp}
            self._remote.predict(api_name="/bulk_alert", alerts=[entry], hf_token=self._token)
        else:
            SQLiteStorage.bulk_alert(
                **self._ours, **{f"{name}s": [value] for name, value in {**alert, **stamp}.items()}
            )

    def _file(self, line: Line, media: Mapping[str, Any]) -> None:
        """A version of an artifact; what has the content of an earlier one is no new one."""
        path = self._target.folder / media["file"]
        about = {name: media[name] for name in ("signature", "registered_name") if media.get(name)}
        artifact = trackio.Artifact(
            _plain(media["name"]), media.get("type", "model"), metadata={**about, "step": line.step}
        )
        artifact.add_dir(path) if path.is_dir() else artifact.add_file(path)
        self._run.log_artifact(
            artifact, aliases=[_plain(alias) for alias in media.get("aliases", ()) if alias != "latest"]
        )

    def _key(self, line: Line) -> str:
        return f"{self._target.id}-{line.seq}"


def _time(line: Line) -> str:
    return datetime.fromtimestamp(line.time, UTC).isoformat()


def _plain(name: str) -> str:
    """`name` of the letters that Trackio allows in an artifact's."""
    return re.sub(r"[^\w.-]", "-", name, flags=re.ASCII)


def show(project: str, port: int) -> None:
    """Serve the dashboard of `project` on the loopback address at `port`, until Ctrl-C.

    Raises:
        Refused: the port is taken.
    """
    try:
        trackio.show(project=project, server_port=port)
    except OSError as problem:
        raise Refused(f"TRACKIO_PORT={port}: {problem}. Try make trackio-show TRACKIO_PORT={port + 1}") from None
