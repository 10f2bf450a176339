"""Which trackers are on and what each is told: plain values, kept in the run folder so that a replay uses the same."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lib.files import read_object, write_whole
from lib.journal import secrets
from lib.names import CUSTOM, installed

# tracker -> what pip installs
PACKAGES = {
    name: name
    for name in (
        "trackio", "wandb", "tensorboard", "mlflow", "aim", "comet_ml", "clearml", "dvclive", "swanlab", "goodseed",
    )
} | {CUSTOM: "accelerate"}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """The symbols of the menu "Experiment Tracking"; those that a disabled tracker leaves unset have a default here."""

    tracker_exit_timeout_s: int
    tracker_ranks: str = "main"
    tracker_group: str = ""
    tracker_job_type: str = ""
    tracker_tags: str = ""
    tracker_notes: str = ""
    tracker_native: str = ""
    gpu_monitor_native: bool = False
    enable_trackio: bool = False
    trackio_space_id: str = ""
    trackio_interval: int = 1
    trackio_sections: bool = False
    enable_wandb: bool = False
    wandb_project: str = ""
    wandb_entity: str = ""
    wandb_offline: bool = False
    wandb_interval: int = 1
    wandb_sections: bool = False
    enable_tensorboard: bool = False
    tensorboard_interval: int = 1
    tensorboard_sections: bool = False
    enable_mlflow: bool = False
    mlflow_uri: str = ""
    mlflow_experiment: str = ""
    mlflow_interval: int = 1
    mlflow_sections: bool = False
    enable_aim: bool = False
    aim_repo: str = ""
    aim_experiment: str = ""
    aim_interval: int = 1
    aim_sections: bool = False
    enable_comet_ml: bool = False
    comet_ml_workspace: str = ""
    comet_ml_project: str = ""
    comet_ml_offline: bool = False
    comet_ml_interval: int = 1
    comet_ml_sections: bool = False
    enable_clearml: bool = False
    clearml_project: str = ""
    clearml_offline: bool = False
    clearml_interval: int = 1
    clearml_sections: bool = False
    enable_dvclive: bool = False
    dvclive_interval: int = 1
    dvclive_sections: bool = False
    enable_swanlab: bool = False
    swanlab_workspace: str = ""
    swanlab_project: str = ""
    swanlab_offline: bool = False
    swanlab_interval: int = 1
    swanlab_sections: bool = False
    enable_goodseed: bool = False
    goodseed_interval: int = 1
    goodseed_sections: bool = False
    enable_custom: bool = False
    custom_class: str = ""
    custom_interval: int = 1
    custom_sections: bool = False

    @property
    def natives(self) -> list[str]:
        """The trackers whose own object lives in the training process, too."""
        return _words(self.tracker_native)

    def enabled(self) -> dict[str, dict[str, Any]]:
        """The trackers that are on, each with what it is told: the options of all, and its own without its prefix."""
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        shared = {name: told[f"tracker_{name}"] for name in ("group", "job_type", "notes")}
        on = [name for name in PACKAGES if told[f"enable_{name}"]]
        return {
            name: {
                **shared,
                "tags": _words(self.tracker_tags),
                "native": name in self.natives,
                "samples_gpus": self.gpu_monitor_native,
                **_own(told, f"{name}_"),
            }
            for name in on
        }


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _own(told: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in told.items() if name.startswith(prefix)}


def missing(name: str, options: Mapping[str, Any] | None = None) -> str | None:
    """What to type when the package of the tracker `name` is not installed; None when it is.

    Of the user's own class, why it can't be found where `options` say; its module is left to its own process to import.
    """
    if not installed(PACKAGES[name]):
        return f"pip install {PACKAGES[name]}"
    return _unfound(str(options.get("class", ""))) if name == CUSTOM and options else None


def _unfound(dotted: str) -> str | None:
    module = dotted.replace(":", ".").rpartition(".")[0]
    try:
        found = module and importlib.util.find_spec(module)
    except Exception as problem:  # a package above it is imported on the way, and may raise anything
        return f"CUSTOM_CLASS={dotted}: {type(problem).__name__}: {problem}"
    return None if found else f"CUSTOM_CLASS={dotted}: there is no module {module or dotted!r} on Python's path"


def write(path: Path, trackers: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep the options of `trackers` in the folder `path`, without secrets, beside those that earlier attempts kept."""
    told = secrets.without(trackers)
    if told != json.loads(json.dumps(trackers)):
        why = "a tracker's options hold a secret, which is not kept and reaches no tracker"
        print(f"warning: {why}. Give it in the client's own environment variable", file=sys.stderr)
    write_whole(path / "settings.json", json.dumps({**read(path), **told}, indent=1) + "\n")


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The options that `write` kept in the folder `path`; empty when there are none."""
    return read_object(path / "settings.json") or {}
