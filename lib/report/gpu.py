"""`make gpu-report`: what the GPUs of a run did, as pictures and as a text, in the run's folder and on the screen."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lib import kconf, plot
from lib.errors import Refused
from lib.files import shown, write_whole
from lib.gpu import store
from lib.journal import folder
from lib.journal.folder import RunFolder
from lib.report import gpu_pictures, gpu_summary
from lib.report.gpu_recording import Recording, monitored, newest, recorded

MOST_COMPARED = 8  # runs in one picture


def main(root: Path, environ: Mapping[str, str]) -> int:
    """`make gpu-report [RUN=run,…]`: pictures and a summary into each run's folder; several runs are compared, too.

    Without RUN it is the newest run that has samples, compared with those of the same project.
    """
    kconf.only(environ, "gpu-report", "RUN")
    named = kconf.typed(environ, "RUN")
    runs = root / "runs"
    asked = [folder.find(runs, text) for text in named.split(",")] if named else [newest(runs)]
    others = [] if named else [run for run in monitored(runs, asked[0].project) if run.path != asked[0].path]
    recordings = [recorded(run) for run in asked]
    compared = [*recordings, *itertools.islice(_readable(others), MOST_COMPARED - 1)]
    for recording in recordings:
        home = recording.run.path / store.FOLDER
        text = gpu_summary.text(recording)
        write_whole(home / "summary.txt", text)
        print(f"{text}\n{shown(home / 'summary.txt', root)}", flush=True)  # the pictures take seconds
        for path in draw(recording):
            print(shown(path, root), flush=True)
    if len(compared) > 1:
        print(shown(compare(compared, recordings[0].run.path / store.FOLDER / "comparison.png"), root))
    return 0


def draw(recording: Recording) -> Iterator[Path]:
    """The pictures, one after the other, into the run's own folder of samples."""
    pictures = {
        "memory.png": gpu_pictures.memory,
        "balance.png": gpu_pictures.load_balance,
        "timeline.png": gpu_pictures.timeline,
    }
    for name, picture in pictures.items():
        yield plot.save(picture(recording), recording.run.path / store.FOLDER / name)


def compare(recordings: Sequence[Recording], path: Path) -> Path:
    """The timelines of several runs in one picture at `path`."""
    return plot.save(gpu_pictures.comparison(recordings), path)


def _readable(runs: Sequence[RunFolder]) -> Iterator[Recording]:
    """Without those whose sampler was ended before it had a sample."""
    for run in runs:
        with contextlib.suppress(Refused):
            yield recorded(run)
