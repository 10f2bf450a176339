"""Weights & Biases, in the cloud or offline. An offline file can't be corrected: each start writes it anew.

W&B merges what comes twice under one of its steps and drops what goes back, so its step is the line's number and ours
is the axis of every curve: each point is kept, and the cloud, which drops the numbers that it has already, takes a
replay from the first line once. What an earlier process had queued and lost arrives as well.
"""

from __future__ import annotations

import html
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import wandb

from lib.journal.lines import Line, Value
from lib.track.client import Absent, Point, Target, as_float

STEP = "trainer/global_step"  # the optimizer step; Lightning's name for it
OWN = {STEP, "_step", "_timestamp", "_runtime", "_wandb"}
TEXTS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}  # how W&B writes what JSON has no number for
EXACT = 2**53  # whole numbers up to it; beyond, W&B has only every second one and fewer
ANSWER_S = 30.0  # of the cloud, at the start
LONGEST_TITLE = 63  # characters of an alert


def _settings(*, samples_gpus: bool) -> wandb.Settings:
    """The client's automatic capture is off; its own sampling of the machine is on where that was asked for."""
    return wandb.Settings(
        x_disable_stats=not samples_gpus, console="off", disable_git=True, disable_code=True, silent=True,
        init_timeout=ANSWER_S,
    )  # fmt: skip


class Tracker:
    rebuilds = True
    repeats: Literal["all", "last", "first"] = "all"
    takes = frozenset(
        [
            "image", "video", "table", "text", "histogram", "figure", "embedding", "alert", "artifact", "model",
            "graph",
        ]
    )  # fmt: skip

    def __init__(self, target: Target) -> None:
        self._target = target
        self._folder = target.folder / "wandb"
        self._mode, self._why = _mode(bool(target.options.get("offline")))
        self.withdraws = self._mode == "offline"
        self._run: Any = None  # wandb.Run
        self._row = -1  # of W&B's history: the last one

    def start(self, *, fresh: bool) -> str:
        told = self._target.options
        if self._mode == "offline":
            shutil.rmtree(self._folder, ignore_errors=True)
        for name in ("DATA", "CACHE"):  # of artifacts: `wandb sync` looks for them later
            os.environ.setdefault(f"WANDB_{name}_DIR", str(self._folder / name.lower()))
        self._row = -1
        self._run = wandb.init(
            mode=self._mode,
            project=told.get("project") or self._target.project,
            entity=told.get("entity") or None,
            group=told.get("group") or None,
            job_type=told.get("job_type") or None,
            tags=told.get("tags") or None,
            notes=told.get("notes") or None,
            name=self._target.name,
            id=self._target.id,
            resume=None if self._mode == "offline" else "allow",
            dir=str(self._target.folder),
            config=dict(self._target.config),
            settings=_settings(samples_gpus=bool(told.get("samples_gpus"))),
        )
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP)
        return self._run.url or f"{self._mode}{self._why}"

    def holds(self, value: Value) -> Value | Absent:
        if isinstance(value, str):
            return TEXTS.get(value, value)
        return as_float(value) if isinstance(value, int) and abs(value) > EXACT else value

    def log(self, lines: Sequence[Line]) -> None:
        for line in lines:
            if line.media is None:
                self._put(line, line.values)
            elif line.media["kind"] == "alert":
                self._ring(line.media)
            elif line.media["kind"] in ("artifact", "model"):
                self._file(line.media)
            else:
                self._put(line, {line.media["name"]: self._shown(line.media)})

    def finish(self, *, failed: bool) -> str:
        self._run.finish(exit_code=1 if failed else 0)
        return "make wandb-sync" if self._mode == "offline" else ""

    def stored(self) -> list[Point]:
        inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(_newest(self._folder))]
        output = subprocess.run(inspect, check=True, capture_output=True, text=True).stdout
        points: list[Point] = []
        for row in output.splitlines():
            item = json.loads(row).get("history", {}).get("item", {})
            if any(name.endswith("._type") for name in item):  # a picture, a table, …
                continue
            points += [
                (item[STEP], name, TEXTS.get(value, value) if isinstance(value, str) else value)
                for name, value in item.items()
                if name not in OWN
            ]
        return points

    def _put(self, line: Line, values: Mapping[str, Any]) -> None:
        options = line.options.get("wandb", {})
        self._row = max(line.seq, self._row + 1)  # a line that came late has a lower number, and W&B would drop it
        self._run.log({**values, STEP: line.step, "_timestamp": line.time}, **{**options, "step": self._row})

    def _shown(self, media: Mapping[str, Any]) -> Any:  # one of W&B's data types
        path = self._target.folder / media.get("file", "")
        match media["kind"]:
            case "image" | "figure":
                return wandb.Image(str(path), caption=media.get("caption") or None)
            case "video":
                return wandb.Video(str(path), format=path.suffix[1:])
            case "table":
                return wandb.Table(columns=media["columns"], data=media["rows"], allow_mixed_types=True)
            case "histogram":
                return wandb.Histogram(np_histogram=(media["counts"], media["edges"]))
            case "embedding":
                return _table_of(path)
        text = path.read_text(encoding="utf-8") if media["kind"] == "graph" else media["text"]
        return wandb.Html(f"<pre>{html.escape(text)}</pre>", inject=False)

    def _ring(self, media: Mapping[str, Any]) -> None:
        title, level = media["title"][:LONGEST_TITLE], media["level"].upper()
        self._run.alert(title=title, text=media["text"], level=level, wait_duration=0)

    def _file(self, media: Mapping[str, Any]) -> None:
        """A version of an artifact; what has the content of an earlier one is no new one."""
        path = self._target.folder / media["file"]
        about = {"signature": media["signature"]} if media.get("signature") else {}
        name = re.sub(r"[^\w.-]", "-", media["name"], flags=re.ASCII)
        artifact = wandb.Artifact(name, media.get("type", "model"), metadata=about)
        if path.is_dir():
            artifact.add_dir(str(path), policy="immutable", skip_cache=True)
        else:
            artifact.add_file(str(path), policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact, aliases=list(media.get("aliases", ())) or None)
        if media.get("registered_name") and self._mode == "online":
            try:
                self._run.link_artifact(artifact, f"wandb-registry-model/{media['registered_name']}")
            except Exception as problem:  # a registry that is not there: the model is kept all the same
                print(f"not registered: {type(problem).__name__}: {problem}", file=sys.stderr)


def _table_of(path: Path) -> wandb.Table:
    """The vectors at `path` as a table, which W&B can project: a column for each dimension, and `label`."""
    with np.load(path) as kept:
        vectors = kept["vectors"]  # (N, D)
        labels = kept["labels"].tolist() if "labels" in kept else [str(row) for row in range(len(vectors))]
    columns = ["label", *(f"d{dimension}" for dimension in range(vectors.shape[1]))]
    return wandb.Table(columns, [[label, *row] for label, row in zip(labels, vectors.tolist(), strict=True)])


def _mode(offline: bool) -> tuple[Any, str]:
    """The mode and why: the option, then WANDB_MODE, then whether there is a login."""
    if offline:
        return "offline", ""
    if mode := os.environ.get("WANDB_MODE"):
        return {"dryrun": "offline"}.get(mode, mode), f" (WANDB_MODE={mode})"
    if wandb.login(prompt=False, verify=False):  # whether the cloud takes it shows at the start
        return "online", ""
    return "offline", " (no login: `wandb login`, or WANDB_API_KEY)"


def _newest(folder: Path) -> Path:
    """The transaction log of the run, `<folder>/offline-run-<time>-<id>/run-<id>.wandb`."""
    return max(folder.glob("*run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)
