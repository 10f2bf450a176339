"""Weights & Biases, in the cloud or offline. An offline file can't be corrected: each start writes it anew.

The cloud drops steps that it has already, so there, too, each start sends from the first line: what an earlier process
had queued and lost arrives as well.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb

from lib.journal.lines import Line
from lib.track.client import Point, Target


class Tracker:
    rebuilds = True

    def __init__(self, target: Target) -> None:
        self._target = target
        self._folder = target.folder / "wandb"
        self._mode, self._why = _mode(bool(target.options.get("offline")))
        self._run: Any = None  # wandb.Run

    def start(self, *, fresh: bool) -> str:
        if self._mode == "offline":
            shutil.rmtree(self._folder, ignore_errors=True)
        self._run = wandb.init(
            mode=self._mode,
            project=self._target.options.get("project") or self._target.project,
            entity=self._target.options.get("entity") or None,
            name=self._target.name,
            id=self._target.id,
            resume=None if self._mode == "offline" else "allow",
            dir=str(self._target.folder),
            config=dict(self._target.config),
            settings=wandb.Settings(
                x_disable_stats=True, console="off", disable_git=True, disable_code=True, silent=True
            ),
        )
        return self._run.url or f"{self._mode}{self._why}"

    def log(self, lines: Sequence[Line]) -> None:
        for line in lines:
            self._run.log({**line.values, "_timestamp": line.time}, step=line.step)

    def finish(self, *, failed: bool) -> str:
        self._run.finish(exit_code=1 if failed else 0)
        return "make wandb-sync" if self._mode == "offline" else ""

    def stored(self) -> list[Point]:
        inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(_newest(self._folder))]
        output = subprocess.run(inspect, check=True, capture_output=True, text=True).stdout
        points: list[Point] = []
        for row in output.splitlines():
            item = json.loads(row).get("history", {}).get("item", {})
            points += [(item["_step"], name, value) for name, value in item.items() if not name.startswith("_")]
        return points


def _mode(offline: bool) -> tuple[Any, str]:
    """The mode and why: the option, then WANDB_MODE, then whether there is a login."""
    if offline:
        return "offline", ""
    if mode := os.environ.get("WANDB_MODE"):
        return {"dryrun": "offline"}.get(mode, mode), f" (WANDB_MODE={mode})"
    return ("online", "") if wandb.login(prompt=False) else ("offline", " (no login: `wandb login`, or WANDB_API_KEY)")


def _newest(folder: Path) -> Path:
    """The transaction log of the run, `<folder>/offline-run-<time>-<id>/run-<id>.wandb`."""
    return max(folder.glob("*run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)
