"""The learning curves: what is in the picture, and that there is one whatever a run has logged so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from lib import plot
from lib.journal import lines


@dataclass
class Point:
    step: int
    values: dict[str, object] = field(default_factory=dict)


def run(metric: str = "val_accuracy") -> list[Point]:
    """Fifty logs of a loss that falls from 3 to 0.01, and five validations."""
    trained = [Point(n, {"train_loss": 3 * 0.892**n, "learning_rate": 0.01 * (50 - n)}) for n in range(50)]
    validated = [Point(n, {"val_loss": 3 / (n + 1), metric: n / 50}) for n in range(0, 50, 10)]
    return sorted(trained + validated, key=lambda point: point.step)


def texts(part: Figure | Axes) -> str:
    return " ".join(text.get_text() for text in part.findobj(lambda thing: hasattr(thing, "get_text")))  # type: ignore


def test_the_picture_has_the_runs_name_and_every_point() -> None:
    figure = plot.draw(run(), "lenet5_adamw_1")
    loss, accuracy, rate = figure.axes
    assert "lenet5_adamw_1" in texts(figure)
    drawn = {line.get_label(): line.get_xydata().tolist() for line in loss.lines}  # type: ignore[union-attr]
    assert drawn["train"] == [[n, 3 * 0.892**n] for n in range(50)]
    assert drawn["validation"] == [[n, 3 / (n + 1)] for n in range(0, 50, 10)]
    assert accuracy.lines[0].get_ydata().tolist() == [0, 0.2, 0.4, 0.6, 0.8]  # type: ignore[union-attr]
    assert len(rate.lines[0].get_xdata()) == 50  # type: ignore[arg-type]


def test_the_best_loss_and_the_last_accuracy_are_said() -> None:
    loss, accuracy, _ = plot.draw(run(), "run").axes
    assert "best validation loss 0.0732 at step 40" in texts(loss)
    assert "80.00%" in texts(accuracy)


def test_perplexity_stands_in_for_accuracy() -> None:
    axes = plot.draw(run("val_perplexity"), "run").axes[1]
    assert "Validation perplexity" in texts(axes)


def test_a_loss_that_spans_decades_gets_a_logarithmic_axis() -> None:
    assert plot.draw(run(), "run").axes[0].get_yscale() == "log"
    flat = [Point(step, {"train_loss": 2.0 + step / 10}) for step in range(9)]
    assert plot.draw(flat, "run").axes[0].get_yscale() == "linear"


def test_nulls_infinities_and_foreign_values_are_left_out() -> None:
    values = [1.0, None, math.nan, math.inf, "n/a", True, 2]
    points = [Point(step, {"train_loss": value}) for step, value in enumerate(values)]
    assert plot.curve(points, "train_loss") == plot.Curve([0, 6], [1.0, 2.0])


def test_smoothing_keeps_a_straight_line_straight() -> None:
    line = [float(value) for value in range(200)]
    assert np.allclose(plot.smoothed(line), line)
    assert np.std(plot.smoothed([(-1.0) ** n for n in range(200)])[10:-10]) < 0.2


def test_a_run_without_points_says_so_and_one_point_is_a_dot() -> None:
    assert [texts(axes).count("no points yet") for axes in plot.draw([], "run").axes] == [1, 1, 1]
    only_null = plot.draw([Point(0, {"val_loss": None, "val_accuracy": None})], "run")
    assert [texts(axes).count("no points yet") for axes in only_null.axes] == [1, 1, 1]
    first = plot.draw([Point(0, {"val_loss": 2.3, "val_accuracy": 0.1})], "run")
    assert first.axes[0].lines[-1].get_marker() == "o"


def test_the_file_is_a_small_png_of_1600_by_900(tmp_path: Path) -> None:
    folder = tmp_path / "lenet5_adamw_1"
    folder.mkdir()
    journal = lines.Journal(folder / lines.NAME)
    for point in run():
        journal.append(point.values, point.step)  # type: ignore[arg-type]
    plot.learning_curves(folder, folder / "curves.png")
    assert imread(folder / "curves.png").shape[:2] == (900, 1600)
    assert (folder / "curves.png").stat().st_size < 150_000
    assert sorted(path.name for path in folder.iterdir()) == ["curves.png", lines.NAME]
