"""Checkpoints: folders that are there whole or not at all, checked before they are used.

    last-00000500/  model.safetensors training.pt meta.json    to go on from; CHECKPOINT_KEEP older ones stay beside it
    step-00000300/  the same                                   kept for good
    best-00000400/  model.safetensors           meta.json      the weights with the lowest validation loss

A checkpoint is written under a name that ends in .tmp and renamed when all of it is on the disk. meta.json holds the
size and sha256 of each file, and its own: a checkpoint that was truncated or has a flipped bit is passed over for the
one before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lib.errors import Refused
from lib.files import read_object, shown
from lib.options import ROOT

Kind = Literal["last", "step", "best"]
WEIGHTS, TRAINING, META = "model.safetensors", "training.pt", "meta.json"
NAME = re.compile(r"(last|step|best)-(\d{8,})")
TEMPORARY = ".tmp"
FORMAT = 1  # of what meta.json says
ALIASES = "aliases"  # in the weights' header: names of one tensor (a tied head), of which the file holds one


class Damaged(Exception):
    """A checkpoint is not what was written; the message is the reason."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint that checked out. It pickles, so that one process can check it for all."""

    path: Path
    meta: dict[str, Any]  # what `save` was given, and format, kind, step, created, torch, files
    passed_over: list[str]  # a line for each newer one that is damaged

    @property
    def step(self) -> int:
        return int(self.meta["step"])

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and training state, as `save` got them, on the CPU: load_state_dict moves each to where it belongs.

        Only tensors and plain values are read: a checkpoint can't run code. Of a best one the latter is empty.

        Raises:
            Refused: it can't be read.
        """
        try:
            if TRAINING not in self.meta["files"]:
                return self.weights(), {}
            return self.weights(), torch.load(self.path / TRAINING, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as problem:
            raise self.refusal(problem) from problem

    def weights(self) -> dict[str, Tensor]:
        """The weights alone, on the CPU. Names that were one tensor are one again.

        Raises:
            Refused: they can't be read.
        """
        try:
            with safe_open(self.path / WEIGHTS, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
                aliases = json.loads(file.metadata()[ALIASES])
        except (SafetensorError, OSError) as problem:
            raise self.refusal(problem) from problem
        return tensors | {name: tensors[first] for name, first in aliases.items()}

    def warn(self) -> None:
        """Tell on stderr what is damaged and was passed over."""
        for line in self.passed_over:
            print(f"warning: {line}", file=sys.stderr)

    def refusal(self, problem: Exception) -> Refused:
        """What to raise when it can't be read or is another model's: one line."""
        why = str(problem).strip().rpartition("\n")[2].strip()
        return Refused(f"{shown(self.path, ROOT)}: this checkpoint can't be used ({why}). RESUME=n starts a new run")


def save(
    folder: Path,
    kind: Kind,
    step: int,
    *,
    model: Mapping[str, Tensor],
    training: Mapping[str, Any] | None,
    meta: Mapping[str, Any],
    keep: int = 1,
) -> Path:
    """Write a checkpoint of `step` into `folder`, then remove what it makes superfluous; where it is.

    `training` holds tensors and plain values, None for weights alone; `meta` what JSON can hold. Of the kind "last" the
    newest and `keep` older ones stay. Where the best and the last of one step are due, save the best first: who
    goes on from the last expects it.

    Raises:
        OSError: it can't be written (a full disk). What was there still is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"*{TEMPORARY}"):
        shutil.rmtree(left)  # by a trainer that was killed; the run's lock is ours
    path = folder / f"{kind}-{step:08d}"
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        with _disk_errors(path):
            _write_weights(temporary / WEIGHTS, model)
            if training is not None:
                torch.save(dict(training), temporary / TRAINING)
        own = {"format": FORMAT, "kind": kind, "step": step, "created": time.time(), "torch": torch.__version__}
        said = {**meta, **own, "files": _described(temporary)}
        (temporary / META).write_text(json.dumps({**said, "sha256": _seal(said)}, indent=1) + "\n")
        for written in [*temporary.iterdir(), temporary]:
            _to_disk(written)
        if path.exists():
            _remove(path, aside=".old")  # damaged, or of a life that training went back from
        temporary.rename(path)
        _to_disk(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for superfluous in _superfluous(folder, step, keep):
        _remove(superfluous)
    return path


def found(folder: Path, *kinds: Kind) -> list[Path]:
    """The checkpoints of `kinds` in `folder`, the newest first; at one step in the order of `kinds`. Not checked."""
    there = [path for path in folder.glob("*-*") if NAME.fullmatch(path.name) and _kind(path) in kinds]
    return sorted(there, key=lambda path: (-_step(path), kinds.index(_kind(path))))


def latest(folder: Path) -> Saved | None:
    """The newest checkpoint in `folder` to go on from that checks out; None when there is none at all.

    Raises:
        Refused: there are some, and each is damaged.
    """
    return _first_sound(folder, ["last", "step"])


def best(folder: Path) -> Saved:
    """The checkpoint in `folder` with the lowest validation loss, else the newest.

    Raises:
        Refused: there is none, or each is damaged.
    """
    saved = _first_sound(folder, ["best"], ["last", "step"])
    if saved is None:
        raise Refused(f"{shown(folder, ROOT)}: there is no checkpoint yet. Train the run first")
    return saved


def weights(folder: Path) -> dict[str, Tensor]:
    """The weights of `best(folder)`, on the CPU; what is damaged and passed over is told on stderr.

    Raises:
        Refused: there are none that check out.
    """
    saved = best(folder)
    saved.warn()
    return saved.weights()


def _first_sound(folder: Path, *wanted: list[Kind]) -> Saved | None:
    """The newest of the first kinds, if none of them is sound of the next."""
    passed_over: list[str] = []
    for path in [path for kinds in wanted for path in found(folder, *kinds)]:
        try:
            return Saved(path, _checked(path), passed_over)
        except (Damaged, OSError) as damage:
            if not path.exists():
                return _first_sound(folder, *wanted)  # the trainer has just replaced it
            passed_over.append(f"{shown(path, ROOT)} is damaged and passed over: {damage}")
    if passed_over:
        last = f"{shown(folder, ROOT)}: no checkpoint can be used. RESUME=n starts a new run"
        raise Refused("\n".join([*passed_over, last]))
    return None


def _checked(path: Path) -> dict[str, Any]:
    """What meta.json at `path` says, when it and every file are what was written."""
    meta = read_object(path / META)
    if meta is None:
        raise Damaged(f"{META} is missing or no JSON object")
    if meta.pop("sha256", None) != _seal(meta):
        raise Damaged(f"{META} is not what was written (sha256)")
    if meta["format"] != FORMAT:
        raise Damaged(f"{META} is of format {meta['format']}, this is {FORMAT}")
    if path.name != f"{meta['kind']}-{meta['step']:08d}":
        raise Damaged(f"{META} is that of {meta['kind']} {meta['step']}")
    for name, was in meta["files"].items():
        size = (path / name).stat().st_size
        if size != was["bytes"]:
            raise Damaged(f"{name} has {size} of {was['bytes']} bytes")
        if _sha256(path / name) != was["sha256"]:
            raise Damaged(f"{name} is not what was written (sha256)")
    return meta


def _write_weights(path: Path, model: Mapping[str, Tensor]) -> None:
    """Each tensor once; safetensors takes neither two names of one nor gaps between its numbers."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    names: dict[tuple[object, ...], str] = {}
    for name, tensor in model.items():
        where = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        first = names.setdefault(where, name) if tensor.numel() else name
        if first == name:
            tensors[name] = tensor.detach().contiguous()
        else:
            aliases[name] = first
    save_file(tensors, path, metadata={"format": "pt", ALIASES: json.dumps(aliases)})


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """What safetensors and torch make of a disk's errors is an OSError again."""
    try:
        yield
    except (SafetensorError, RuntimeError) as problem:
        why = str(problem).strip().rpartition("\n")[2].strip()
        raise OSError(f"{path.name}: {why}") from problem


def _seal(meta: Mapping[str, Any]) -> str:
    """The sha256 of `meta`, in whatever order it is."""
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _described(folder: Path) -> dict[str, dict[str, int | str]]:
    return {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(folder.iterdir())}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _superfluous(folder: Path, step: int, keep: int) -> list[Path]:
    """What a checkpoint of `step` leaves without a use: what is later (training went back), and what is too old.

    Beside the best stays the one before it, as long as training may still have to go on from before the best.
    """
    later = [path for path in found(folder, "last", "step", "best") if _step(path) > step]
    lasts = [path for path in found(folder, "last") if _step(path) <= step]
    bests = [path for path in found(folder, "best") if _step(path) <= step]
    reached = _step(lasts[0]) if lasts else -1
    before = next((path for path in bests if _step(path) <= reached), None)
    return [*later, *lasts[1 + keep :], *(path for path in bests[1:] if path != before)]


def _remove(path: Path, aside: str = "") -> None:
    """Take `path` away at once, so that nobody finds half of it; then delete it."""
    gone = _temporary(path.with_name(path.name + aside))
    path.rename(gone)
    shutil.rmtree(gone)


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + TEMPORARY)


def _to_disk(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _step(path: Path) -> int:
    return int(path.name.partition("-")[2])


def _kind(path: Path) -> Kind:
    return cast(Kind, path.name.partition("-")[0])
