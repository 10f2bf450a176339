"""Training that is killed at random moments and started again ends with the bits of one that nobody disturbed.

Compared are every value of the loss curve and a sha256 over the weights, the moments and whatever else the last
checkpoint holds in tensors.
"""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from cloning import environment

from lib import checkpoint, reproduce
from lib.journal import lines
from lib.journal.folder import RunFolder

STEPS = 200
ALWAYS = (
    *(f"--max-iters={STEPS}", "--log-interval=5", "--eval-interval=40", "--checkpoint-interval-s=0"),
    *("--device=cpu", "--tracker=none", "--resume=auto"),
)
LENET5 = ("lenet5", "--batch-size=8", "--eval-samples=2", "--threads=1")
GPT2 = (
    *("gpt2", "--dataset=stdlib", "--block-size=16", "--layers=2", "--heads=2", "--width=32", "--dropout=0.1"),
    *("--batch-size=4", "--gradient-accumulation=2", "--eval-samples=2", "--eval-batch-size=8", "--threads=1"),
)
DDP = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


class Training:
    """One command, typed again and again in `clone`: each start goes on with the run that the last one left."""

    def __init__(self, clone: Path, name: str, *words: str, launcher: tuple[str, ...] = ()) -> None:
        model, *flags = words
        self.command = [sys.executable, *launcher, f"{model}/train.py", *ALWAYS, f"--tracker-run-name={name}", *flags]
        self.clone, self.name, self.said = clone, name, clone / "said"

    @property
    def store(self) -> RunFolder:
        (config,) = self.clone.glob(f"runs/*/{self.name}/config.json")
        return RunFolder(config.parent)

    def ends(self) -> RunFolder:
        """The run, after this start came to its end."""
        with self._started() as trainer:
            assert trainer.wait() == 0, self.said.read_text()
        return self.store

    def is_killed(self, step: int, pause_s: float) -> None:
        """This start, with every process of it, `pause_s` after the line of `step` was in the journal."""
        with self._started() as trainer:
            for line in self._lines(trainer):
                if line.rewind is None and line.step >= step:
                    break
            time.sleep(pause_s)
            _kill(psutil.Process(trainer.pid))
        assert self.store.state() == "killed", self.said.read_text()

    def _started(self) -> subprocess.Popen[bytes]:
        with self.said.open("wb") as said:
            return subprocess.Popen(
                self.command, cwd=self.clone, env=environment(), stdout=said, stderr=subprocess.STDOUT
            )

    def _lines(self, trainer: subprocess.Popen[bytes]) -> Iterator[lines.Line]:
        """What this start adds to the journal."""
        journals = list(self.clone.glob(f"runs/*/{self.name}/journal.jsonl"))
        reader = lines.Reader(journals[0], journals[0].stat().st_size) if journals else None
        while trainer.poll() is None:
            if reader:
                yield from reader.read()
            elif journals := list(self.clone.glob(f"runs/*/{self.name}/journal.jsonl")):
                reader = lines.Reader(journals[0])
            time.sleep(0.002)
        raise AssertionError(f"it ended before it could be killed: {self.said.read_text()}")


def _kill(trainer: psutil.Process) -> None:
    """The process and all below it: a job's processes, whatever they do at this moment."""
    victims = [*trainer.children(recursive=True), trainer]
    random.shuffle(victims)
    for victim in victims:
        victim.send_signal(signal.SIGKILL)
    psutil.wait_procs(victims, timeout=30)


def _digest(store: RunFolder) -> str:
    """Of every tensor in the last checkpoint, by name."""
    saved = checkpoint.latest(store.checkpoints)
    assert saved and saved.step == STEPS and saved.passed_over == []
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors("", saved.load())):
        digest.update(f"{name} {tensor.dtype} {[*tensor.shape]}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _tensors(name: str, state: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(state, torch.Tensor):
        yield name, state.reshape(-1)
    elif isinstance(state, Mapping | list | tuple):
        for key, value in state.items() if isinstance(state, Mapping) else enumerate(state):
            yield from _tensors(f"{name}/{key}", value)


def _damage(store: RunFolder, chance: random.Random) -> str:
    """Flip a bit of the newest checkpoint, or cut its end off; its name."""
    newest, *before = checkpoint.found(store.checkpoints, "last")
    assert before
    path = newest / chance.choice([checkpoint.WEIGHTS, checkpoint.TRAINING])
    raw = bytearray(path.read_bytes())
    if chance.random() < 0.5:
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    else:
        del raw[chance.randrange(len(raw)) :]
    path.write_bytes(raw)
    return newest.name


def _survives(clone: Path, *words: str, moments: int, launcher: tuple[str, ...] = ()) -> None:
    """Killed at so many moments, and its newest checkpoint damaged, it ends as it does undisturbed."""
    undisturbed = Training(clone, "undisturbed", *words, launcher=launcher).ends()
    chance = random.Random(seed := time.time_ns())
    training = Training(clone, "killed", *words, launcher=launcher)
    steps = sorted(chance.choices(range(15, STEPS - 30), k=moments))
    for step in steps:
        training.is_killed(step, pause_s=chance.uniform(0, 0.08))
    damaged = _damage(training.store, chance)
    store = training.ends()
    assert store.attempts == moments + 1, "each start goes on with the same run"
    said = training.said.read_text()
    assert said.count("passed over") == 1 and f"{damaged} is damaged and passed over" in said, said
    found = reproduce.compare(lines.read(undisturbed.path), lines.read(store.path), whole=True)
    assert found.wrong == [] and found.steps == STEPS // 5 + 1, (seed, steps, found.wrong)
    assert _digest(store) == _digest(undisturbed), (seed, steps)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("model", [LENET5, pytest.param(GPT2, marks=pytest.mark.slow)], ids=["lenet5", "gpt2"])
def test_killed_at_two_random_moments_it_ends_with_the_same_bits(clone: Path, model: tuple[str, ...]) -> None:
    _survives(clone, *model, moments=2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("model", [LENET5, GPT2], ids=["lenet5", "gpt2"])
def test_killed_at_thirty_random_moments_it_ends_with_the_same_bits(clone: Path, model: tuple[str, ...]) -> None:
    _survives(clone, *model, moments=30)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("model", "flags"),
    [
        (LENET5, ("--threads=2",)),
        (GPT2, ("--threads=2",)),
        (GPT2, ("--compile",)),
        (LENET5, ("--ema-decay=0.9", "--guard=skip", "--spike-factor=3")),
        (LENET5, ("--optimizer=adamwspam", "--spam-interval=60")),
        (LENET5, ("--optimizer=adamwprune", "--pruning=state", "--pruning-warmup=20", "--pruning-interval=7")),
        (GPT2, ("--pruning=movement", "--movement-kind=learned", "--pruning-warmup=20", "--pruning-interval=7")),
    ],
    ids=lambda words: words[0],
)
def test_so_it_does_whatever_else_it_keeps_between_steps(
    clone: Path, model: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    kept = [word for word in model if word.partition("=")[0] not in {flag.partition("=")[0] for flag in flags}]
    _survives(clone, *kept, *flags, moments=4)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", [LENET5, GPT2], ids=["lenet5", "gpt2"])
def test_so_do_two_processes(clone: Path, model: tuple[str, ...]) -> None:
    _survives(clone, *model, moments=4, launcher=DDP)
