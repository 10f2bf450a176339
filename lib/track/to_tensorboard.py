"""TensorBoard: event files in the run folder. Points have no key there, so each start writes them from the first."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from google.protobuf.struct_pb2 import Value as Field
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from lib.journal.lines import Line, Value
from lib.track.client import Point, Target


class Tracker:
    rebuilds = True

    def __init__(self, target: Target) -> None:
        self._target = target
        self._folder = target.folder / "tensorboard"
        self._writer: EventFileWriter | None = None

    def start(self, *, fresh: bool) -> str:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._writer = EventFileWriter(str(self._folder), flush_secs=5)
        start = SessionStartInfo()
        for name, value in self._target.config.items():
            _set(start.hparams[name], value)
        self._session(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))
        return "make tensorboard-show"

    def log(self, lines: Sequence[Line]) -> None:
        assert self._writer is not None
        for line in lines:
            scalars = [Summary.Value(tag=name, simple_value=v) for name, v in line.values.items() if _is_number(v)]
            if scalars:
                self._writer.add_event(Event(wall_time=line.time, step=line.step, summary=Summary(value=scalars)))
        self._writer.flush()

    def finish(self, *, failed: bool) -> str:
        assert self._writer is not None
        status = api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS
        end = HParamsPluginData(session_end_info=SessionEndInfo(status=status))
        self._session(metadata.SESSION_END_INFO_TAG, end)
        self._writer.close()
        return ""

    def stored(self) -> list[Point]:
        events = EventAccumulator(str(self._folder), size_guidance={"scalars": 0})
        events.Reload()
        return [(e.step, tag, e.value) for tag in events.Tags()["scalars"] for e in events.Scalars(tag)]

    def _session(self, tag: str, data: HParamsPluginData) -> None:
        """One line of TensorBoard's hyperparameter table."""
        assert self._writer is not None
        about = metadata.create_summary_metadata(data)
        self._writer.add_event(Event(summary=Summary(value=[Summary.Value(tag=tag, metadata=about)])))


def _set(field: Field, value: Value) -> None:
    """Put `value` into a protobuf Value of the type that fits."""
    if isinstance(value, bool):
        field.bool_value = value
    elif isinstance(value, int | float):
        field.number_value = value
    else:
        field.string_value = str(value)


def _is_number(value: Value) -> bool:
    return isinstance(value, bool | int | float)
