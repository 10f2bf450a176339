"""TensorBoard: event files in the run folder. Points have no key there, so each start writes them from the first."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from google.protobuf import text_format
from google.protobuf.struct_pb2 import Value as Field
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.plugins.histogram import metadata as histograms
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboard.plugins.text import metadata as texts
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_ndarray, make_tensor_proto

from lib.journal.lines import Line, Value
from lib.track.client import ABSENT, Absent, Point, Target, as_float

PROSE = "/text_summary"  # ends the name of a text or table, as with torch's writer; not of a value that is a text
PROJECTOR = "projector_config.pbtxt"  # where TensorBoard looks for embeddings


class Tracker:
    rebuilds = True
    withdraws = True
    repeats: Literal["all", "last", "first"] = "all"
    takes = frozenset(["image", "video", "table", "text", "histogram", "figure", "embedding", "graph"])

    def __init__(self, target: Target) -> None:
        self._target = target
        self._folder = target.folder / "tensorboard"
        self._writer: EventFileWriter | None = None
        self._projector = ProjectorConfig()

    def start(self, *, fresh: bool) -> str:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._writer = EventFileWriter(str(self._folder), flush_secs=5)
        self._projector = ProjectorConfig()
        start = SessionStartInfo()
        told = self._target.options
        about = {name: told[name] for name in ("group", "job_type", "tags", "notes") if told.get(name)}
        for name, value in {**about, **self._target.config}.items():
            _set(start.hparams[name], value)
        self._session(hparams.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))
        return "make tensorboard-show"

    def holds(self, value: Value) -> Value | Absent:
        if isinstance(value, int | float):  # True is 1
            with np.errstate(over="ignore"):
                return float(np.float32(as_float(value)))  # of a greater one it makes inf
        return value if isinstance(value, str) else ABSENT

    def log(self, lines: Sequence[Line]) -> None:
        assert self._writer is not None
        for line in lines:
            if line.media is None:
                shown = [_value(name, value) for name, value in line.values.items()]
            else:
                shown = self._shown(line, line.media)
            time = line.options.get("tensorboard", {}).get("walltime", line.time)
            self._writer.add_event(Event(wall_time=time, step=line.step, summary=Summary(value=shown)))
        self._writer.flush()

    def finish(self, *, failed: bool) -> str:
        assert self._writer is not None
        status = api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS
        end = HParamsPluginData(session_end_info=SessionEndInfo(status=status))
        self._session(hparams.SESSION_END_INFO_TAG, end)
        self._writer.close()
        return ""

    def stored(self) -> list[Point]:
        events = EventAccumulator(str(self._folder), size_guidance={"scalars": 0, "tensors": 0})
        events.Reload()
        numbers = [(e.step, tag, e.value) for tag in events.Tags()["scalars"] for e in events.Scalars(tag)]
        kinds = {tag: events.SummaryMetadata(tag).plugin_data.plugin_name for tag in events.Tags()["tensors"]}
        words = [tag for tag, kind in kinds.items() if kind == texts.PLUGIN_NAME and not tag.endswith(PROSE)]
        return numbers + [
            (e.step, tag, make_ndarray(e.tensor_proto).item().decode()) for tag in words for e in events.Tensors(tag)
        ]

    def _session(self, tag: str, data: HParamsPluginData) -> None:
        """One line of TensorBoard's hyperparameter table."""
        assert self._writer is not None
        about = hparams.create_summary_metadata(data)
        self._writer.add_event(Event(summary=Summary(value=[Summary.Value(tag=tag, metadata=about)])))

    def _shown(self, line: Line, media: Mapping[str, Any]) -> list[Summary.Value]:
        """What an event holds of a picture, a table, …; for what lies beside the event files, nothing."""
        name, path = media["name"], self._target.folder / media.get("file", "")
        match media["kind"]:
            case "image" | "figure":
                return [_picture(name, path)]
            case "video":
                return [_picture(name, path) if path.suffix == ".gif" else _text(name + PROSE, media["file"])]
            case "table":
                return [_text(name + PROSE, _markdown(media["columns"], media["rows"]))]
            case "text":
                return [_text(name + PROSE, media["text"])]
            case "histogram":
                return [_histogram(name, media["counts"], media["edges"])]
            case "embedding":
                self._embed(f"{name}-{line.step}", path)
            case "graph":
                self._draw(media["nodes"])
        return []

    def _draw(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        assert self._writer is not None
        graph = GraphDef(node=[NodeDef(name=node["name"], op=node["op"], input=node["inputs"]) for node in nodes])
        self._writer.add_event(Event(graph_def=graph.SerializeToString()))

    def _embed(self, name: str, path: Path) -> None:
        """Write the vectors at `path` as the projector's tables."""
        place = self._folder / path.stem
        place.mkdir(exist_ok=True)
        about = self._projector.embeddings.add(tensor_name=name, tensor_path=f"{path.stem}/tensors.tsv")
        with np.load(path) as kept:
            np.savetxt(place / "tensors.tsv", kept["vectors"], fmt="%.9g", delimiter="\t")
            if "labels" in kept:
                lines = [" ".join(label.split()) or "-" for label in kept["labels"].tolist()]
                (place / "metadata.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
                about.metadata_path = f"{path.stem}/metadata.tsv"
        (self._folder / PROJECTOR).write_text(text_format.MessageToString(self._projector), encoding="utf-8")


def _value(name: str, value: Value) -> Summary.Value:
    return _text(name, value) if isinstance(value, str) else Summary.Value(tag=name, simple_value=value)


def _text(name: str, text: str) -> Summary.Value:
    about = texts.create_summary_metadata(display_name=None, description=None)
    return Summary.Value(tag=name, metadata=about, tensor=TensorProto(dtype="DT_STRING", string_val=[text.encode()]))


def _histogram(name: str, counts: Sequence[int], edges: Sequence[float]) -> Summary.Value:
    buckets = np.column_stack([edges[:-1], edges[1:], counts])  # (bins, 3): left, right, count
    about = histograms.create_summary_metadata(display_name=None, description=None)
    return Summary.Value(tag=name, metadata=about, tensor=make_tensor_proto(buckets, dtype=np.float64))


def _picture(name: str, path: Path) -> Summary.Value:
    with Image.open(path) as picture:
        width, height = picture.size
    shown = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=path.read_bytes())
    return Summary.Value(tag=name, image=shown)


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown, which the text tab draws."""
    cells = [columns, ["---"] * len(columns), *rows]
    escaped = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in cells]
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)


def _set(field: Field, value: Value) -> None:
    """Put `value` into a protobuf Value of the type that fits."""
    if isinstance(value, bool):
        field.bool_value = value
    elif isinstance(value, int | float):
        field.number_value = value
    else:
        field.string_value = str(value)
