"""DVCLive: tables in the run folder, `dvclive/plots/metrics/<name>.tsv`, that DVC and its editor extension can show.

The tables are written here, in DVCLive's format: its own `log_metric` stamps a row with the time of the call, refuses
`loss/a` beside `loss`, and takes a name like `../x` out of the folder. A row has no key: each start writes them anew.
DVCLive has no place for tags, notes and groups, nor for how a run ended.
"""

from __future__ import annotations

import contextlib
import csv
import math
import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import dvclive
from dvclive.utils import parse_tsv

from lib.journal.lines import Line, Value
from lib.track.client import ABSENT, Absent, Point, Target

RESERVED = {"", ".", "..", "step", "timestamp"}  # parts of a name that a path can't have, and the other columns

STUDIO_OFF = "DVC_STUDIO_OFFLINE"


class Tracker:
    rebuilds = True
    withdraws = True
    repeats: Literal["all", "last", "first"] = "all"
    takes = frozenset(["image", "figure"])

    def __init__(self, target: Target) -> None:
        self._target = target
        self._folder = target.folder / "dvclive"
        self._metrics = self._folder / "plots" / "metrics"
        self._live: Any = None  # dvclive.Live; the package is not there in every environment

    def start(self, *, fresh: bool) -> str:
        shutil.rmtree(self._folder, ignore_errors=True)
        os.environ.setdefault(STUDIO_OFF, "true")  # Studio appends: a replay would send each point again
        with contextlib.chdir("/"):  # in a Git repository DVCLive would turn it into a DVC repository, and stage that
            self._live = dvclive.Live(
                str(self._folder), save_dvc_exp=False, dvcyaml=None, report=None, monitor_system=False
            )
        self._live.log_params(dict(self._target.config))
        return f"dvc plots show {shlex.quote(str(self._metrics))} -x step"

    def holds(self, value: Value) -> Value | Absent:
        if value is None:
            return ABSENT
        return int(value) if isinstance(value, bool) else _read(str(value))

    def log(self, lines: Sequence[Line]) -> None:
        rows: dict[str, list[tuple[int, int, Value]]] = {}
        for line in lines:
            for name, value in line.values.items():
                rows.setdefault(name, []).append((int(line.time * 1000), line.step, value))
            if line.media:
                image = f"{_path(line.media['name'])}/{line.step}.png"
                self._live.log_image(image, self._target.folder / line.media["file"])
        for name, added in rows.items():
            self._append(_path(name), added)
            self._live.summary[name] = _json(added[-1][2])
        self._live.step = lines[-1].step
        self._live.make_summary()

    def finish(self, *, failed: bool) -> str:
        self._live.end()
        return ""

    def stored(self) -> list[Point]:
        points: list[Point] = []
        for table in self._metrics.rglob("*.tsv"):
            path = table.relative_to(self._metrics).with_suffix("").as_posix()
            points += [(int(row["step"]), _name(path), _read(row[Path(path).name])) for row in parse_tsv(table)]
        return points

    def _append(self, path: str, rows: list[tuple[int, int, Value]]) -> None:
        table = self._metrics / f"{path}.tsv"
        table.parent.mkdir(parents=True, exist_ok=True)
        new = not table.exists()
        with table.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            if new:
                writer.writerow(["timestamp", "step", Path(path).name])
            writer.writerows(rows)


def _path(name: str) -> str:
    """`name` as a path below the tables; a part that can't be one is `%` and its bytes in hexadecimal."""
    parts = name.split("/")
    return "/".join(f"%{p.encode().hex()}" if p in RESERVED or p.startswith("%") else p for p in parts)


def _name(path: str) -> str:
    """The name that `_path` made `path` of."""
    return "/".join(bytes.fromhex(part[1:]).decode() if part.startswith("%") else part for part in path.split("/"))


def _read(cell: str) -> int | float | str:
    """A cell of a table: tables have no types, so that the text "7" is the number 7."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(cell)
    return cell


def _json(value: Value) -> Value:
    """`value` for metrics.json, where DVCLive writes inf and nan as texts."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
