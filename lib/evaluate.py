"""The held-out numbers of an earlier run once more: its configuration, its best weights, no training."""

from __future__ import annotations

from pathlib import Path

import torch

from lib import checkpoint, dist
from lib.files import shown
from lib.journal import lines
from lib.journal.folder import RunFolder
from lib.loop import Task, autocast
from lib.options import ROOT
from lib.progress import describe


def again(task: Task, folder: str, device: torch.device, *, data: str, precision: str) -> int:
    """Validate `task` with the best weights of the run in `folder`, and print the numbers; returns the exit status, 0.

    `data` is the fingerprint of what the task reads. Nothing is written.

    Raises:
        Refused: the run has no weights that can be used, or of another shape than the task's model.
    """
    store = RunFolder(Path(folder))
    saved = checkpoint.best(store.checkpoints)
    if dist.rank() == 0:
        saved.warn()
    try:
        task.model.load_state_dict(saved.weights())
    except RuntimeError as problem:  # a data set that has more classes now
        raise saved.refusal(problem) from problem
    task.model.eval()
    with dist.joined(device), torch.no_grad(), autocast(device, precision):
        found = task.evaluate()
    if dist.rank() == 0:
        print(f"run       {shown(store.path, ROOT)}  on {device}")
        print(f"best      {describe(found)}")
        if logged := _logged(store):
            print(f"logged    {describe(logged[1])}  at step {logged[0]}")
        if store.data not in (None, data):
            print("note: the data are others than the run had")
    return 0


def _logged(store: RunFolder) -> tuple[int, dict[str, float]] | None:
    """The validation of the run with the lowest loss: its step and its numbers."""
    validations = [line for line in lines.read(store.path) if isinstance(line.values.get("val_loss"), float)]
    if not validations:
        return None
    best = min(validations, key=lambda line: float(line.values["val_loss"]))  # type: ignore[arg-type]  # a float, see above
    return best.step, {name: value for name, value in best.values.items() if isinstance(value, float)}
