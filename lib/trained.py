"""What becomes of a trained run: its best weights, a text sampled from them, their export for other programs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lib import kconf
from lib.errors import Refused
from lib.files import shown
from lib.journal import folder
from lib.journal.folder import RunFolder
from lib.options import ROOT

if TYPE_CHECKING:  # who hands over to a model's own script needs no torch
    from torch import Tensor

EXPORT = "export"  # the folder in the run's own, unless O= names another
CONFIG, WEIGHTS = "config.json", "model.safetensors"
SAMPLING = ("PROMPT", "TOKENS", "TEMPERATURE", "TOP_K", "SEED")


def sample(root: Path, environ: Mapping[str, str]) -> NoReturn:
    """Become the script that samples from the run RUN, told what make's command line says of it.

    Raises:
        Refused: no such run, or its model makes no text.
    """
    kconf.only(environ, "sample", "RUN", *SAMPLING)
    run = folder.find(root / "runs", kconf.typed(environ, "RUN"))
    script = root / model_of(run) / "sample.py"
    if not script.is_file():
        raise Refused(f"RUN={shown(run.path, root)}: {model_of(run)} makes no text. Name a run of gpt2")
    given = {f"--{name.lower().replace('_', '-')}": kconf.typed(environ, name) for name in SAMPLING}
    _become([str(script), str(run.path), *(f"{flag}={value}" for flag, value in given.items() if value)])


def export(root: Path, environ: Mapping[str, str]) -> int:
    """Write the run RUN for other programs into O=, or into a folder in its own; the model's way when it has one.

    Raises:
        Refused: no such run, it has no checkpoint, or the folder is not empty.
    """
    kconf.only(environ, "export", "RUN", "O")
    run = folder.find(root / "runs", kconf.typed(environ, "RUN"))
    place = kconf.typed(environ, "O")
    script = root / model_of(run) / "export.py"
    if script.is_file():
        _become([str(script), str(run.path), *([str((root / place).absolute())] if place else [])])
    weights = best(run)
    with written(run, root / place if place else None, weights) as target:
        from safetensors.torch import save_file

        save_file(weights, target / WEIGHTS, metadata={"format": "pt"})
        (target / CONFIG).write_text(json.dumps(about(run, weights), indent=2) + "\n")
    return 0


def best(run: RunFolder) -> dict[str, Tensor]:
    """The run's weights with the lowest validation loss, by name, on the CPU; its last ones when none were validated.

    Raises:
        Refused: there is no checkpoint that can be used.
    """
    from lib import checkpoint

    return checkpoint.weights(run.checkpoints)


def model_of(run: RunFolder) -> str:
    return str(run.configuration["values"]["MODEL"])


def about(run: RunFolder, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What an export says of itself: the run, what its network was built with, and what is pruned (plain values)."""
    values, model = run.configuration["values"], model_of(run)
    sizes = {name: value for name, value in values.items() if name.startswith(f"{model}_".upper())}
    return {"run": f"{run.project}/{run.name}", "model": model, "values": sizes, "sparsity": sparsity(weights)}


def sparsity(weights: Mapping[str, Tensor]) -> dict[str, float]:
    """The share of zeros, 0 to 1, in each weight that has some: matrices and convolutions, as pruning has them."""
    shares = {
        name: 1 - int(tensor.count_nonzero()) / tensor.numel() for name, tensor in weights.items() if tensor.ndim > 1
    }
    return {name: share for name, share in shares.items() if share}


@contextlib.contextmanager
def written(run: RunFolder, place: Path | None, weights: Mapping[str, Tensor]) -> Iterator[Path]:
    """An empty folder to write an export into, which then becomes `place` as a whole; says what lies there.

    Raises:
        Refused: there is something in `place`. Without one the run's own folder takes it, in place of an earlier one.
    """
    target = place or run.path / EXPORT
    if place and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Refused(f"O={place}: not an empty folder. Name another, or one that is not there yet")
    temporary = target.with_name(target.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"exported  {shown(target, ROOT)}  ({', '.join(sorted(path.name for path in target.iterdir()))})")
    if zeros := sparsity(weights):
        total = sum(share * weights[name].numel() for name, share in zeros.items())
        print(f"pruned    {total / sum(weights[name].numel() for name in zeros):.1%} of the weights below")
        print("\n".join(f"          {name:<40} {share:6.1%}" for name, share in zeros.items()))


def _become(words: list[str]) -> NoReturn:
    """Take this process's place with a script of a model's."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *words])
