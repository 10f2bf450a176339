"""SwanLab, in the cloud or offline. Its file in the run folder is buffered and has no keys: each start writes it anew.

The cloud takes a step of a name once, the first value, and none before the last that it has. So there, too, each start
sends from the first line: what an earlier process had queued and lost arrives as well.
"""

from __future__ import annotations

import shlex
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import swanlab
from google.protobuf.timestamp_pb2 import Timestamp
from pyroaring import BitMap64
from swanlab.proto.swanlab.record.v1.record_pb2 import Record
from swanlab.sdk.internal.bus import MetricLogEvent
from swanlab.sdk.internal.core_python.store import DataStoreReader

from lib.journal.lines import Line, Value
from lib.track.client import ABSENT, Absent, Point, Target, as_float


class Tracker:
    rebuilds = True
    repeats: Literal["all", "last", "first"] = "first"
    takes = frozenset(["image", "figure", "text"])

    def __init__(self, target: Target) -> None:
        self._target = target
        self._folder = target.folder / "swanlab"
        self._mode, self._why = _mode(bool(target.options.get("offline")))
        self.withdraws = self._mode != "online"
        self._run: Any = None  # swanlab.Run; the package is not there in every environment
        self._sent: defaultdict[str, Any] = defaultdict(BitMap64)  # name -> its steps

    def start(self, *, fresh: bool) -> str:
        if self._mode != "online":  # else only what the cloud lacked is in each of the files
            shutil.rmtree(self._folder, ignore_errors=True)
        self._sent.clear()
        told = self._target.options
        self._run = swanlab.init(
            mode=self._mode,
            project=told.get("project") or self._target.project,
            workspace=told.get("workspace") or None,
            name=self._target.name,
            id=self._target.id,
            resume="allow",
            log_dir=str(self._folder),
            config=dict(self._target.config),
            description=told.get("notes") or None,
            tags=told.get("tags") or None,
            group=told.get("group") or None,
            job_type=told.get("job_type") or None,
            settings=_quiet(),
        )
        return str(self._run.url) if self._mode == "online" else f"{self._mode}{self._why}"

    def holds(self, value: Value) -> Value | Absent:
        return as_float(value) if isinstance(value, int | float) else ABSENT  # True is 1

    def log(self, lines: Sequence[Line]) -> None:
        for line in lines:
            data: dict[str, Any] = dict(line.values)
            for name in data:
                self._sent[name].add(line.step)
            if line.media:
                data[line.media["name"]] = self._shown(line.media)
            time = Timestamp()
            time.FromNanoseconds(int(line.time * 1e9))
            # what `Run.log` does, which would stamp the points of a replay with the time of now
            self._run._components.emitter.emit(MetricLogEvent(data=data, step=line.step, timestamp=time))

    def finish(self, *, failed: bool) -> str:
        self._run.finish(state="crashed" if failed else "success", error="the run failed" if failed else None)
        if self._mode != "offline":
            return ""
        sent, kept = sum(map(len, self._sent.values())), len(self.stored())
        if kept < sent:  # what it can't write, on a full disk, SwanLab drops in silence
            raise OSError(f"SwanLab kept {kept} of {sent} points")
        return f"swanlab sync {shlex.quote(str(self._run.dir))}"

    def stored(self) -> list[Point]:
        points: dict[tuple[int, str], Value] = {}
        for file in sorted(self._folder.glob(f"*/run-{self._target.id}.swanlab")):
            for scalar in _scalars(file):
                points.setdefault((scalar.step, scalar.key), scalar.value.number)
        return [(step, name, value) for (step, name), value in points.items()]

    def _shown(self, media: dict[str, Any]) -> Any:  # one of SwanLab's own types
        if media["kind"] == "text":
            return swanlab.Text(media["text"])
        return swanlab.Image(str(self._target.folder / media["file"]), caption=media.get("caption"))


def _mode(offline: bool) -> tuple[Any, str]:
    """The mode and why: the option, then SWANLAB_MODE, then whether there is a login."""
    if offline:
        return "offline", ""
    told = swanlab.Settings()  # SwanLab's own: its variables, its files and its login
    if told.mode == "online" and not told.api_key:
        return "offline", " (no login: `swanlab login`, or SWANLAB_API_KEY)"
    return told.mode, "" if told.mode == "online" else f" (SWANLAB_MODE={told.mode})"


def _quiet() -> swanlab.Settings:
    """No question to the user; nothing read off the machine, the repository or the terminal."""
    off = dict.fromkeys(["hardware", "runtime", "requirements", "conda", "git", "swanlab", "monitor"], False)
    return swanlab.Settings(
        interactive=False,
        probe=swanlab.Settings.Probe(**off),
        terminal=swanlab.Settings.Terminal(proxy_type="none"),
    )


def _scalars(file: Path) -> list[Any]:
    """The ScalarRecords of one of SwanLab's files."""
    reader = DataStoreReader()
    reader.open(file)
    try:
        records = [Record.FromString(data) for data in reader]
    finally:
        reader.close()
    return [record.scalar for record in records if record.HasField("scalar")]
