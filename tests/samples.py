"""One of each kind of media, logged as a user would: what every tracker that takes it must show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from lib.track.run import Run

STEP = 3
CHECKS = np.indices((12, 16)).sum(axis=0) % 2 * 255  # (12, 16) a chessboard
COLUMNS = ["word", "count", "share"]
ROWS = [["cat", 2, 0.5], ["dog", None, float("nan")], ["a|b", 3, 1e-9]]
TEXT = "Once <b>upon</b> a time\nthere was a | in a text."
VALUES = torch.sin(torch.arange(101) * 1.7)
VECTORS = torch.eye(3, 4)
LABELS = ["red", "green", "blue"]


def drawn(path: Path) -> tuple[np.ndarray, int]:
    """The first picture in the file, and how many it has."""
    with Image.open(path) as picture:
        return np.asarray(picture), getattr(picture, "n_frames", 1)


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))


def everything(run: Run, scratch: Path) -> None:
    """Values at steps 0 to `STEP`, then each kind at `STEP`; then all is closed."""
    for step in range(STEP + 1):
        run.log({"loss": 1 / (step + 1)}, step)
    net = network()
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([1, 3, 2])
    weights, folder = scratch / "weights.bin", scratch / "data set"
    weights.write_bytes(b"weights")
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    run.image("samples", CHECKS.astype(np.uint8), STEP, caption="a board")
    run.image("val/colours", torch.rand(3, 8, 8), STEP)
    run.video("clip", np.stack([CHECKS, 255 - CHECKS]).astype(np.uint8), STEP, fps=4)
    run.table("words", COLUMNS, ROWS, step=STEP)
    run.text("story", TEXT, STEP)
    run.histogram("weights", VALUES, STEP, bins=10)
    run.figure("curve", figure, STEP)
    run.embedding("colours", VECTORS, STEP, labels=LABELS)
    run.alert("Loss rises", "It was 0.25.", "error", step=STEP)
    run.artifact(weights, "best weights", "model", step=STEP, aliases=["best"])
    run.artifact(folder, type="dataset", step=STEP)
    run.model(net, "classifier", registered_name="tiny", example=torch.zeros(5, 4), step=STEP)
    run.graph(net, step=STEP)
    run.finish({})
