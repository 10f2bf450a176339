"""FSDP: processes that each hold a part of the weights train the curve of processes that hold all of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cloning import environment

from lib import checkpoint
from lib.journal import lines
from lib.journal.folder import RunFolder

SMALL = [
    "--layers=2", "--width=32", "--heads=2", "--block-size=32", "--batch-size=4", "--gradient-accumulation=2",
    "--eval-batch-size=8", "--log-interval=2", "--eval-interval=4", "--warmup-steps=2", "--checkpoint-interval-s=0",
    "--tracker=none", "--device=cpu",
]  # fmt: skip


def trained(clone: Path, *flags: str, processes: int = 2) -> RunFolder:
    """The run of a tiny GPT-2 with these flags, as torchrun starts it."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    words = [*torchrun, "gpt2/train.py", *SMALL, *flags]
    done = subprocess.run(words, cwd=clone, env=environment(OMP_NUM_THREADS="1"), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"^folder +(\S+)", done.stdout, re.MULTILINE)
    assert found, done.stdout
    return RunFolder(clone / found[1])


def curve(run: RunFolder, name: str) -> dict[int | None, float]:
    return {line.step: float(line.values[name]) for line in lines.read(run.path) if name in line.values}  # type: ignore[arg-type]


@pytest.mark.slow
def test_shared_weights_train_the_same_curve_and_their_checkpoints_are_whole(clone: Path) -> None:
    data = "--max-iters=8"
    whole = trained(clone, data, "--eval-samples=3")
    shared = trained(clone, data, "--eval-samples=3", "--parallel=fsdp")
    for name in ("train_loss", "val_loss", "grad_norm"):
        one, other = curve(whole, name), curve(shared, name)
        assert one.keys() == other.keys() and one == pytest.approx(other, rel=1e-4), name
    one, other = (checkpoint.weights(run.checkpoints) for run in (whole, shared))
    assert {name: tensor.shape for name, tensor in one.items()} == {name: t.shape for name, t in other.items()}


@pytest.mark.slow
def test_a_shared_run_goes_on_where_it_was(clone: Path) -> None:
    undisturbed = trained(clone, "--max-iters=8", "--eval-samples=2", "--parallel=fsdp")
    run = trained(clone, "--max-iters=8", "--eval-samples=2", "--parallel=fsdp", "--resume=no", "--seed=0")
    (run.path / "result.json").unlink()
    for path in checkpoint.found(run.checkpoints, "last")[:1]:
        (path / "training.pt").write_bytes(b"torn")
    again = trained(
        clone, "--max-iters=8", "--eval-samples=2", "--parallel=fsdp", "--resume", str(run.path), "--seed=0"
    )
    assert again.path == run.path and again.attempts == 2
    assert curve(again, "val_loss") == curve(undisturbed, "val_loss")
