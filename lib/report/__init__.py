"""What runs came to: one HTML page, Markdown, CSV and Parquet. docs/reading-results.md is about reading them.

`outcomes` reads a run's folder, `groups` puts together those that differ by their seed alone, `statistics` is what may
be said of them; `comparison`, `figures` and `particulars` say it, in `page`; `tables` is the same for other programs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.files import write_whole
from lib.journal.folder import RunFolder


def build(
    runs: Sequence[RunFolder],
    out: Path,
    *,
    title: str,
    axes: Mapping[str, Mapping[str, str]],
    baseline: Mapping[str, str] | None,
    commands: Mapping[str, str],
    failures: Mapping[str, str],
) -> list[Path]:
    """Write index.html, results.csv and results.md about the runs into `out`, and return their paths.

    By the path of a run, `axes` says what the matrix varied (symbol -> value), `commands` the line that trains it and
    `failures` why it failed. A run without axes is placed by its own configuration. `baseline` are the values of those
    that the others are compared with; without it they are the first ones.
    """
    from lib.report import outcomes, tables
    from lib.report.groups import parts
    from lib.report.page import page

    found = [
        outcomes.read(
            run, axes=axes.get(str(run.path)), command=commands.get(str(run.path), f"make reproduce RUN={run.path}"),
            why=failures.get(str(run.path), ""),
        )
        for run in runs
    ]  # fmt: skip
    models = parts(found, baseline)
    texts = {
        "index.html": page(title, models),
        "results.csv": tables.as_csv([tables.row(one, symbols=False) for one in found]),
        "results.md": tables.markdown(title, models),
    }
    for name, text in texts.items():
        write_whole(out / name, text)
    return [out / name for name in texts]


def export_results(runs: Sequence[RunFolder], out: Path) -> list[Path]:
    """Write what every run was configured by and came to as results.csv and results.parquet into `out`."""
    from lib.report import outcomes, tables

    rows = [tables.row(outcomes.read(run, axes=None, command="", why=""), symbols=True) for run in runs]
    paths = [out / "results.csv", out / "results.parquet"]
    write_whole(paths[0], tables.as_csv(rows))
    tables.write_parquet(rows, paths[1])
    return paths
