"""Which trackers are on and what each is told: plain values, kept in the run folder so that a replay uses the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.files import read_object, write_whole
from lib.names import installed

PACKAGES = {"trackio": "trackio", "wandb": "wandb", "tensorboard": "tensorboard"}  # tracker -> what pip installs


@dataclass(frozen=True)
class Settings:
    """The symbols of the menu "Experiment Tracking"; those that a disabled tracker leaves unset have a default here."""

    tracker_exit_timeout_s: int
    enable_trackio: bool = False
    enable_wandb: bool = False
    enable_tensorboard: bool = False
    wandb_project: str = ""
    wandb_entity: str = ""
    wandb_offline: bool = False

    def enabled(self) -> dict[str, dict[str, Any]]:
        """The trackers that are on, each with its own options."""
        options: dict[str, tuple[bool, dict[str, Any]]] = {
            "trackio": (self.enable_trackio, {}),
            "wandb": (
                self.enable_wandb,
                {"project": self.wandb_project, "entity": self.wandb_entity, "offline": self.wandb_offline},
            ),
            "tensorboard": (self.enable_tensorboard, {}),
        }
        return {name: told for name, (on, told) in options.items() if on}


def missing(name: str) -> str | None:
    """What to type when the package of the tracker `name` is not installed; None when it is."""
    return None if installed(PACKAGES[name]) else f"pip install {PACKAGES[name]}"


def write(path: Path, trackers: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep the options of `trackers` in the folder `path`, beside those that earlier attempts kept."""
    write_whole(path / "settings.json", json.dumps({**read(path), **trackers}, indent=1) + "\n")


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The options that `write` kept in the folder `path`; empty when there are none."""
    return read_object(path / "settings.json") or {}
