"""TensorBoard: values and media read back from the event files by its own reader."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import parity
import pytest
import samples
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.plugins.projector.projector_plugin import _read_tensor_tsv_file
from tensorboard.util.tensor_util import make_ndarray

from lib.journal.folder import RunFolder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    path = tmp_path_factory.mktemp("samples")
    with parity.create(path, "tensorboard", tracker_group="sweep") as run:
        run.log({"long": 2**70, "array": np.float32(0.1), "tensor": torch.tensor(3), "nested": {"a": {"b": 1}}}, 0)
        samples.everything(run, path)
    parity.no_difference("tensorboard", run.store)
    return run.store


@pytest.fixture(scope="module")
def events(store: RunFolder) -> EventAccumulator:
    return EventAccumulator(str(store.path / "tensorboard")).Reload()


def test_every_value_reads_back(tmp_path: Path) -> None:
    store = parity.life(tmp_path, "tensorboard")
    odd = parity.odd_ones("tensorboard", store)
    assert math.isnan(float(str(odd.pop("not_a_number")[0])))
    third = [float(np.float32(1 / 3)), float(np.float32(2 / 3))]
    assert odd == {
        "whole": [7], "yes": [1], "no": [0], "infinite": [math.inf], "minus_infinite": [-math.inf],
        "word": ["warm-up"], "third": third, "tiny": [0], "huge": [math.inf],
    }  # fmt: skip


def test_no_step_is_there_twice_after_a_rewind_and_a_replay(tmp_path: Path) -> None:
    parity.twice(tmp_path, "tensorboard")


def test_pictures_figures_and_videos_are_images_of_their_step(store: RunFolder, events: EventAccumulator) -> None:
    assert sorted(events.Tags()["images"]) == ["clip", "curve", "samples", "val/colours"]
    (image,) = events.Images("samples")
    assert (image.step, image.width, image.height) == (samples.STEP, 16, 12)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(image.encoded_image_string))), samples.CHECKS)
    clip = Image.open(io.BytesIO(events.Images("clip")[0].encoded_image_string))
    assert (clip.format, clip.n_frames, clip.info["duration"]) == ("GIF", 2, 250)


def test_texts_tables_and_histograms_are_in_their_tabs(events: EventAccumulator) -> None:
    def content(tag: str) -> np.ndarray:
        return make_ndarray(events.Tensors(tag)[0].tensor_proto)

    assert events.PluginTagToContent("text").keys() == {"story/text_summary", "words/text_summary"}
    assert content("story/text_summary").item().decode() == samples.TEXT
    assert content("words/text_summary").item().decode().splitlines() == [
        "| word | count | share |", "| --- | --- | --- |",
        "| cat | 2 | 0.5 |", "| dog | None | nan |", r"| a\|b | 3 | 1e-09 |",
    ]  # fmt: skip
    counts, edges = np.histogram(samples.VALUES.numpy(), 10)
    assert events.PluginTagToContent("histograms").keys() == {"weights"}
    assert np.allclose(content("weights"), np.column_stack([edges[:-1], edges[1:], counts]))


def test_embeddings_are_in_the_projector_and_the_graph_is_whole(store: RunFolder, events: EventAccumulator) -> None:
    folder = store.path / "tensorboard"
    assert 'tensor_path: "colours-3/tensors.tsv"' in (folder / "projector_config.pbtxt").read_text()
    assert np.array_equal(_read_tensor_tsv_file(str(folder / "colours-3/tensors.tsv")), samples.VECTORS.numpy())
    assert (folder / "colours-3/metadata.tsv").read_text().split() == samples.LABELS
    graph = GraphDef.FromString(events.Graph().SerializeToString())
    assert [(node.name, list(node.input)) for node in graph.node] == [
        ("input_1", []), ("_0", ["input_1"]), ("_1", ["_0"]), ("_2", ["_1"]), ("output", ["_2"]),
    ]  # fmt: skip
