"""`make gpu-report`: the numbers are those that were sampled and logged, and the pictures show every peak."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gpu_runs import BEGIN, TOTAL_MIB, busy, created, sampled
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from lib.errors import Refused
from lib.files import append_line
from lib.gpu import store
from lib.gpu.readings import FIELDS, Gpu, Values
from lib.gpu.store import Header
from lib.report import gpu, gpu_pictures, gpu_recording, gpu_summary
from lib.report.gpu_recording import Recording, decimated, job, recorded, stretches

SPIKE_S, LOST_S = 61, (70, 80)


def uneven(second: int, index: int) -> Values | None:
    """GPU 1 has a spike of memory, GPU 2 half the load, GPU 3 is lost for a while."""
    values = list(busy(second, index))
    if index == 1 and second == SPIKE_S:
        values[1] = 22500.0
    if index == 2:
        values[0] = 45.0
    return None if index == 3 and LOST_S[0] <= second < LOST_S[1] else values


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Two minutes of four GPUs, of which each did something else; process 2 had three times the work."""
    run = sampled(created(tmp_path_factory.mktemp("four")), wave=uneven, slow_rank=2)
    event = {"event": "lost", "gpus": [3], "why": "GPU is lost"}
    append_line(run.path / store.FOLDER / "rank-0" / store.EVENTS, event | {"host": "a", "time": BEGIN + LOST_S[0]})
    return recorded(run)


def texts(part: Figure | Axes) -> str:
    return " ".join(text.get_text() for text in part.findobj(lambda thing: hasattr(thing, "get_text")))  # type: ignore


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_visible()]


def test_a_track_has_what_its_gpu_was_sampled_with(four: Recording) -> None:
    assert [track.card.index for track in four.tracks] == [0, 1, 2, 3]
    expected = [busy(second, 0)[0] for second in range(120)]
    assert four.tracks[0].values["utilization"][:, 1].tolist() == expected
    assert four.tracks[0].mean("utilization") == pytest.approx(np.mean(expected))
    assert four.tracks[1].highest("memory_used") == 22500.0
    assert four.tracks[3].lost_spans() == [(float(LOST_S[0]), float(LOST_S[1]))]
    assert (four.samples, four.seconds) == (120, 120.0)


def test_tracks_are_in_the_order_of_the_logged_names(tmp_path: Path) -> None:
    """Process 0 may compute on the GPU that the driver counts last."""
    run = sampled(
        created(tmp_path), gpus=2, seconds=30, wave=lambda second, index: [90.0 - 50 * index, *busy(0, 0)[1:]]
    )
    marks = run.path / store.FOLDER / store.MARKS
    for rank, uuid in enumerate(("GPU-a1", "GPU-a0")):
        (marks / f"rank-{rank}.jsonl").write_text(json.dumps({"time": BEGIN, "uuid": uuid}) + "\n")
    assert [(track.card.index, track.mean("utilization")) for track in recorded(run).tracks] == [(0, 40.0), (1, 90.0)]


def test_the_gpus_of_a_second_node_count_on(tmp_path: Path) -> None:
    run = created(tmp_path)
    cards = [tuple(Gpu(index, f"GPU-{host}{index}", "A10G") for index in range(2)) for host in "ab"]
    headers = {2 * node: Header(BEGIN, "ab"[node], "nvml", "driver", 1.0, FIELDS, cards[node]) for node in range(2)}
    run.record("machine", device="cuda", processes=4)
    every = [(0, 0), (0, 1), (2, 0), (2, 1)]
    assert job(run, headers) == every
    marks = run.path / store.FOLDER / store.MARKS
    marks.mkdir(parents=True)
    for rank in (3, 2, 1):
        append_line(marks / f"rank-{rank}.jsonl", {"uuid": cards[rank % 2][rank // 2].uuid})
    assert job(run, headers) == every  # until all have said where they are
    append_line(marks / "rank-0.jsonl", {"uuid": cards[0][0].uuid})
    assert job(run, headers) == [(0, 0), (2, 0), (0, 1), (2, 1)]


def test_many_samples_are_read_by_the_minute_and_tell_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = sampled(created(tmp_path), gpus=2, seconds=600, wave=uneven)
    exact = recorded(run)
    monkeypatch.setattr(gpu_recording, "MOST_SAMPLES", 100)
    rolled = recorded(run)
    assert (len(exact.tracks[0].seconds), len(rolled.tracks[0].seconds)) == (600, 10)
    assert rolled.samples == 600
    for name in ("utilization", "memory_used", "power"):
        for one, other in zip(exact.tracks, rolled.tracks, strict=True):
            assert other.mean(name) == pytest.approx(one.mean(name), rel=1e-3)
            assert (other.least(name), other.highest(name)) == (one.least(name), one.highest(name))
    joules = 240.0 * 599
    assert [track.joules for track in exact.tracks] == [pytest.approx(joules)] * 2
    assert [track.joules for track in rolled.tracks] == [pytest.approx(joules, rel=0.01)] * 2


def test_the_pause_between_two_attempts_is_left_out(tmp_path: Path) -> None:
    run = sampled(created(tmp_path), gpus=2, seconds=60)
    whole = sampled(run, gpus=2, seconds=60, begin=BEGIN + 7200)
    recording = recorded(whole)
    assert recording.seconds == pytest.approx(120, abs=2)
    assert recording.resumed == [60.0]
    assert recording.tracks[0].joules == pytest.approx(2 * 59 * 240)  # and not the counter's difference over two hours
    assert recording.last("gpu_energy_total_kwh") == pytest.approx(2 * 2 * 59 * 240 / 3.6e6, rel=1e-4)


def test_every_peak_stays_when_many_moments_become_few() -> None:
    values = np.full((100_000, 3), 50.0)
    values[31_415], values[92_653] = 99.0, 1.0
    seconds, few = decimated(np.arange(100_000.0), values, 600)
    assert len(seconds) == len(few) <= 600
    assert (few[:, 2].max(), few[:, 0].min()) == (99.0, 1.0)
    at = int(few[:, 2].argmax())
    assert seconds[at] <= 31_415 < seconds[at + 1]
    assert few[:, 1].mean() == pytest.approx(50, abs=0.01)


def test_a_gap_stays_a_gap_when_many_moments_become_few() -> None:
    values = np.full((6000, 3), 50.0)
    values[1000:2000] = np.nan
    seconds, few = decimated(np.arange(6000.0), values, 600)
    assert set(seconds[np.isnan(few[:, 1])]) == set(range(1000, 2000, 10))


def test_stretches_have_their_begin_and_their_end() -> None:
    assert stretches(np.array([True, False, True, True])) == [(0, 1), (2, 4)]
    assert stretches(np.array([False, False])) == []


def test_the_summary_has_a_line_for_each_gpu_and_one_for_all(four: Recording) -> None:
    lines = gpu_summary.text(four).splitlines()
    (first,) = [line.split() for line in lines if line.startswith("0 NVIDIA")]
    track = four.tracks[0]
    means = [track.mean("utilization"), track.least("utilization"), (track.mean("memory_used") or 0) / 1024]
    assert first[3:6] == [f"{means[0]:.1f}", f"{means[1]:.0f}", f"{means[2]:.1f}"]
    assert first[6:] == ["17.6", "22.5", "55", "64", "240", "240", "300", "28.6"]
    (every,) = [line.split() for line in lines if line.startswith("all")]
    assert every[-2:] == ["1200", "114.2"]
    assert "4 × NVIDIA A10G (driver 550.163.01); 2 min 00 s, 120 samples, one each 1 s" in lines


def test_the_summary_says_what_was_logged_of_balance_energy_and_cost(four: Recording) -> None:
    text = gpu_summary.text(four)
    logged = [window["values"] for window in four.windows]
    cvs = [values["gpu_load_balance_cv"] for values in logged if values["gpu_load_balance_cv"] is not None]
    assert f"utilization CV {np.mean(cvs):.1f} %: Poor" in text
    assert "rank 2 did the most work in 12 of 12 windows" in text
    assert f"cost        {logged[-1]['gpu_cost']:.4g} at the configured prices" in text
    assert f"GPU hours   {logged[-1]['gpu_hours']:.4g}" in text
    known = [values for values in logged if values["gpu_joules_per_token"]]
    tokens = sum(values["gpu_energy_joules"] / values["gpu_joules_per_token"] for values in known)
    joules = sum(values["gpu_energy_joules"] for values in known)
    assert f"{joules / tokens:.4g} J per token (by the GPUs' counters)" in text


def test_spikes_drops_and_lost_gpus_are_told(four: Recording) -> None:
    text = gpu_summary.text(four)
    assert "GPU 1: memory once for a short while over 10 % above its median, up to 22.0 GiB after 1 min 01 s" in text
    assert "GPU 3: 1 min 10 s to 1 min 20 s" in text
    assert "after 1 min 10 s: gpu 3 lost: GPU is lost" in text


def test_memory_that_grows_and_stays_is_no_spike(tmp_path: Path) -> None:
    def growing(second: int, index: int) -> Values:
        values = list(busy(second, index))
        values[1] = 10_000.0 + (10_000.0 if second > 70 else 0.0)
        return values

    (track,) = recorded(sampled(created(tmp_path), gpus=1, wave=growing)).tracks
    assert gpu_summary.spikes(track)[0] == 0


def test_a_stall_of_a_gpu_is_a_drop(tmp_path: Path) -> None:
    def stalled(second: int, index: int) -> Values:
        return [0.0 if 40 <= second < 45 else 90.0, *busy(second, index)[1:]]

    (track,) = recorded(sampled(created(tmp_path), gpus=1, wave=stalled)).tracks
    assert gpu_summary.drops(track) == (1, 5.0)


@pytest.mark.parametrize(
    ("count", "shape"),
    [(1, (1, 1)), (2, (1, 2)), (3, (1, 3)), (4, (2, 2)), (5, (2, 3)), (6, (2, 3)), (8, (2, 4)), (16, (4, 4))],
)
def test_the_memory_of_each_gpu_has_a_panel_in_a_grid(count: int, shape: tuple[int, int], tmp_path: Path) -> None:
    assert gpu_pictures.grid(count) == shape
    recording = recorded(sampled(created(tmp_path), gpus=count, seconds=12))
    shown = panels(gpu_pictures.memory(recording))
    assert len(shown) == count
    for index, axes in enumerate(shown):
        assert f"GPU {index}" in texts(axes)
        assert f"peak {max(busy(s, index)[1] or 0 for s in range(12)) / 1024:.1f}" in texts(axes)
        assert axes.get_ylim()[1] > TOTAL_MIB / 1024


def test_a_spike_and_a_lost_gpu_are_in_the_picture_of_memory(four: Recording) -> None:
    first, second, _, last = panels(gpu_pictures.memory(four))
    assert "peak 22.0 of 22.5 GiB (98 %)" in texts(second)
    assert max(line.get_ydata().max() for line in second.lines[:1]) == pytest.approx(22500 / 1024)  # type: ignore
    assert len(last.patches) == len(first.patches) + 1  # the time in which it was lost


def test_the_balance_stands_above_its_classes(four: Recording) -> None:
    above, *bars = panels(gpu_pictures.load_balance(four))
    assert all(name in texts(above) for name in ("Excellent", "Good", "Fair", "Poor"))
    drawn = {line.get_label(): line.get_ydata() for line in above.lines}
    assert np.allclose(drawn["utilization"], four.logged("gpu_load_balance_cv"), equal_nan=True)
    assert [axes.get_title(loc="left") for axes in bars][-1] == "Work in each step [ms]"
    heights = [patch.get_height() for patch in bars[-1].patches]  # type: ignore[attr-defined]
    assert heights == pytest.approx([50, 50, 150, 50])
    assert "CV 57.7 %  Poor" in texts(bars[-1])


def test_one_gpu_has_nothing_to_balance(tmp_path: Path) -> None:
    recording = recorded(sampled(created(tmp_path), gpus=1, seconds=12))
    assert "one GPU: nothing to balance" in texts(gpu_pictures.load_balance(recording))
    assert "one GPU: nothing to balance" in gpu_summary.text(recording)


def test_a_run_without_gpus_shows_its_host(tmp_path: Path) -> None:
    run = sampled(created(tmp_path), gpus=0, seconds=30, wave=lambda second, _: [50.0, 8192.0 + second])
    recording = recorded(run)
    assert "no GPU: processor and memory of a" in gpu_summary.text(recording)
    assert [line.split() for line in gpu_summary.text(recording).splitlines() if line.startswith("a ")] == [
        ["a", "50.0", "50.0", "8.0", "8.0", "62.5"]
    ]
    assert len(panels(gpu_pictures.memory(recording))) == 1
    assert "one process: nothing to balance" in texts(gpu_pictures.load_balance(recording))
    assert len(panels(gpu_pictures.timeline(recording))) == 2


def test_a_run_that_was_killed_at_once_can_be_drawn_too(tmp_path: Path) -> None:
    run = sampled(created(tmp_path), gpus=2, seconds=1)
    (run.path / store.FOLDER / store.WINDOWS).unlink()
    recording = recorded(run)
    assert "no window of 10 samples is over yet" in gpu_summary.text(recording)
    assert "no window is over yet" in texts(gpu_pictures.load_balance(recording))
    for picture in (gpu_pictures.memory, gpu_pictures.timeline):
        assert len(panels(picture(recording))) > 1


def test_the_command_writes_a_text_and_pictures_and_compares_the_projects_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sampled(created(tmp_path, "first"), gpus=2, seconds=30)
    sampled(created(tmp_path, "killed at once"), gpus=2, seconds=0)
    second = sampled(created(tmp_path, "second"), gpus=2, seconds=40)
    assert gpu.main(tmp_path, {}) == 0
    home = second.path / store.FOLDER
    names = ["balance.png", "comparison.png", "memory.png", "timeline.png"]
    assert sorted(path.name for path in home.glob("*.png")) == names
    said = capsys.readouterr().out
    assert (home / "summary.txt").read_text() in said
    assert all(f"runs/gpt2-a3f2c/second/gpu/{name}\n" in said for name in (*names, "summary.txt"))
    assert imread(home / "memory.png").shape[:2] == (900, 1600)
    assert not list(home.glob("*.part"))


def test_the_runs_that_are_named_are_compared_with_each_other(tmp_path: Path) -> None:
    runs = [sampled(created(tmp_path, name), gpus=2, seconds=30) for name in ("a", "b", "c")]
    figure = gpu_pictures.comparison([recorded(run) for run in runs[:2]])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    drawn = [line for line in panels(figure)[0].lines if line.get_label() == "a"]
    assert np.allclose(drawn[0].get_ydata(), recorded(runs[0]).logged("gpu_average_utilization"))  # type: ignore


def test_without_samples_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"no run below .* has GPU samples. Train one with GPU_MONITOR=y"):
        gpu.main(tmp_path, {})
    run = created(tmp_path)
    with pytest.raises(Refused, match="it has no GPU samples"):
        gpu.main(tmp_path, {"KCONF_CLI": "RUN", "RUN": str(run.path)})
