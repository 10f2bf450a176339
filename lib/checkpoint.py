"""Checkpoints: everything that training needs to go on, one file each, written whole or not at all."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lib.errors import Refused

LAST = "last.pt"
BEST = "best.pt"


def save(path: Path, *, model: nn.Module, optimizer: Optimizer, progress: dict[str, Any]) -> None:
    """Write weights, optimizer state and `progress` (plain values) to `path`: to a temporary name, then renamed."""
    path.parent.mkdir(exist_ok=True)
    for left in path.parent.glob("*.tmp"):
        left.unlink()  # by a trainer that was killed; the run's lock is ours
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": progress}
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, *, model: nn.Module, optimizer: Optimizer, device: torch.device) -> dict[str, Any]:
    """Put the weights and optimizer state at `path` into `model` and `optimizer`; the `progress` that was saved.

    Only tensors and plain values are read (`weights_only`): a checkpoint can't run code.

    Raises:
        Refused: it can't be read, or is another model's.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return dict(state["progress"])
    except (RuntimeError, KeyError, ValueError, TypeError, EOFError, OSError, pickle.UnpicklingError) as problem:
        why = str(problem).partition("\n")[0]
        raise Refused(f"{path}: no usable checkpoint ({why}). RESUME=n starts a new run") from problem
