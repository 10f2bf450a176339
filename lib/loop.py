"""The training loop that every model shares: steps, validation, checkpoints, what is logged, and a safe way to stop.

A model comes as a `Task`; the loop knows nothing else of it. A step is one optimizer step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lib import checkpoint, dist
from lib.errors import Refused
from lib.progress import Progress, describe
from lib.track.run import NullRun, Run

MANY = 1_000_003  # keeps the seeds of neighbouring runs, steps and processes apart
GO_ON, FINISH, LEAVE = range(3)
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last comes when a terminal is closed


class Task(Protocol):
    """What the loop needs to know of a model and its data."""

    model: nn.Module
    unit: str  # what throughput counts: "images" or "tokens"
    units_per_batch: int  # of one batch of one process
    batches_per_epoch: int  # of one process

    def batches(self, first: int) -> Iterator[Any]:
        """This process's batches for ever, from its batch number `first` on; the same ones each time."""

    def loss(self, batch: Any) -> Tensor:
        """Mean loss of `batch`, 0-dimensional."""

    def evaluate(self) -> dict[str, float]:
        """`val_loss` and its kin over the fixed held-out batches, the same on every process."""


@dataclass(frozen=True)
class Plan:
    """How long and how to train; each field is the symbol of that name.

    Raises:
        Refused: there is neither a number of epochs nor of steps.
    """

    learning_rate: float
    min_learning_rate: float
    warmup_steps: int
    grad_clip: float
    gradient_accumulation: int
    num_epochs: int
    max_iters: int
    max_time_s: int
    log_interval: int
    eval_interval: int
    watch_interval: int
    checkpoint_interval_s: int
    precision: str
    seed: int

    def __post_init__(self) -> None:
        if not self.num_epochs and not self.max_iters:
            raise Refused("NUM_EPOCHS=0 and MAX_ITERS=0: the learning rate needs an end to fall to. Set one of them")

    def steps(self, batches_per_epoch: int) -> int:
        """Optimizer steps until the first limit of epochs and steps."""
        by_epochs = math.ceil(self.num_epochs * batches_per_epoch / self.gradient_accumulation)
        return min(limit for limit in (by_epochs, self.max_iters) if limit)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of `step` (from 1) of `steps`: linear warm-up, then half a cosine down to the floor."""
        if step <= self.warmup_steps:
            return self.learning_rate * step / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        share = (1 + math.cos(math.pi * done)) / 2
        return self.min_learning_rate + (self.learning_rate - self.min_learning_rate) * share


@dataclass
class Position:
    """Where training is: all of it goes into a checkpoint, so that a resumed run logs what an undisturbed one would."""

    step: int = 0
    best_val_loss: float = math.inf
    loss_sum: float = 0.0  # of the batches since the last log
    loss_count: int = 0
    time_s: float = 0.0  # in earlier attempts and this one
    world: int = 1  # processes
    validation: dict[str, float] = dataclasses.field(default_factory=dict)  # the latest


class Stop:
    """Notices SIGINT, SIGTERM and SIGHUP, so that the loop can end after a whole step; a second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self.signal = 0

    def _notice(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._notice) for number in STOPPING}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Clock:
    """Seconds of training, and of work between two logs without validation and checkpoints."""

    def __init__(self) -> None:
        self.earlier_s = 0.0  # of earlier attempts
        self.batches = 0  # of this process since the last `rate`
        self._began = self._saved = self._asked = time.monotonic()
        self._paused_s = 0.0

    @property
    def total_s(self) -> float:
        return self.earlier_s + time.monotonic() - self._began

    @property
    def since_save_s(self) -> float:
        return time.monotonic() - self._saved

    def saved(self) -> None:
        self._saved = time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count as work."""
        began = time.monotonic()
        yield
        self._paused_s += time.monotonic() - began

    def rate(self) -> float:
        """Batches per second of work since the last call."""
        now = time.monotonic()
        rate = self.batches / max(1e-9, now - self._asked - self._paused_s)
        self.batches, self._asked, self._paused_s = 0, now, 0.0
        return rate


def fit(task: Task, optimizer: Optimizer, run: Run | NullRun, plan: Plan, *, device: torch.device) -> int:
    """Train `task` to the end of `plan`, from the last checkpoint in the run's folder when there is one.

    Returns the exit status: 0 when the plan is done, 128 + signal when SIGINT or SIGTERM stopped it after a checkpoint.
    """
    loop = Loop(task, optimizer, run, plan, device)
    with loop.stop.watching(), loop.progress:
        loop.restore()
        loop.train()
    if not loop.finished:
        number = loop.stop.signal or signal.SIGTERM  # another process may have been the one to get it
        run.interrupted(signal.Signals(number).name)
        return 128 + number
    run.finish(loop.result())
    return 0


class Loop:
    """One call of `fit`."""

    def __init__(self, task: Task, optimizer: Optimizer, run: Run | NullRun, plan: Plan, device: torch.device) -> None:
        self.task, self.optimizer, self.run, self.plan, self.device = task, optimizer, run, plan, device
        self.model = task.model  # as it is saved; the task calls the one that averages gradients over the processes
        task.model = dist.wrap(task.model)
        self.steps = plan.steps(task.batches_per_epoch)
        self.at = Position(world=dist.world())
        self.stop = Stop()
        self.finished = False
        self.progress = Progress(self.steps, shown=dist.rank() == 0)
        self.losses = torch.zeros((), device=device)  # since the last log; never read in between
        self.grad_norm = torch.zeros((), device=device)
        self.clock = Clock()
        if plan.watch_interval:
            run.watch(self.model, plan.watch_interval)

    def restore(self) -> None:
        """Go back to the last checkpoint, if there is one."""
        path = self.run.store.checkpoints / checkpoint.LAST
        if path.exists():
            state = checkpoint.load(path, model=self.model, optimizer=self.optimizer, device=self.device)
            self.at = Position(**state)
            if self.at.world != dist.world():
                raise Refused(
                    f"{path}: trained by {self.at.world} processes, now there are {dist.world()}. "
                    f"Start {self.at.world} (torchrun --nproc-per-node), or a new run with RESUME=n"
                )
            self.losses += self.at.loss_sum
            self.clock.earlier_s = self.at.time_s
        if self.run.store.attempts > 1:
            self.run.rewind(self.at.step or -1)  # step 0 is validated again
            self.progress.say(f"goes on after step {self.at.step} of {self.steps}")
        self.progress.resume(self.at.step)

    def train(self) -> None:
        """Every step from where we are to the end, or until we are told to stop."""
        if self.at.step == 0:
            self.validate()
        batches = self.task.batches(self.at.step * self.plan.gradient_accumulation)
        self.task.model.train()
        self.finished = ended = self.at.step >= self.steps
        while not ended:
            self.step(batches)
            logs = self.at.step % self.plan.log_interval == 0
            told = self.told_to_stop(logs)
            self.finished = self.at.step == self.steps or told == FINISH
            ended = self.finished or told == LEAVE
            if logs or self.finished:
                self.log()
            if self.finished or (not ended and self.at.step % self.plan.eval_interval == 0):
                self.validate()
            if self.finished:
                self.run.log({"best_val_loss": self.at.best_val_loss, "total_time_s": self.clock.total_s}, self.at.step)
            if ended or (logs and self.clock.since_save_s >= self.plan.checkpoint_interval_s):
                self.save(checkpoint.LAST)

    def told_to_stop(self, logs: bool) -> int:
        """GO_ON, FINISH when the time is up, LEAVE after a signal; processes agree on it at steps that are logged."""
        told = GO_ON
        if 0 < self.plan.max_time_s <= self.clock.total_s:
            told = FINISH
        if self.stop.signal:
            told = LEAVE
        if dist.world() == 1 or not logs:
            return told if dist.world() == 1 else GO_ON
        return dist.highest(told, self.device)

    def step(self, batches: Iterator[Any]) -> None:
        """One optimizer step."""
        self.at.step += 1
        torch.manual_seed(self.seed_of(self.at.step))  # what is random in a step (dropout) needs no state to resume
        rate = self.plan.rate(self.at.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for batch in range(1, self.plan.gradient_accumulation + 1):
            with dist.alone(self.task.model) if batch < self.plan.gradient_accumulation else contextlib.nullcontext():
                with self.autocast():
                    loss = self.task.loss(next(batches))
                (loss / self.plan.gradient_accumulation).backward()  # type: ignore[no-untyped-call]
            self.losses += loss.detach()
        self.at.loss_count += self.plan.gradient_accumulation
        self.clock.batches += self.plan.gradient_accumulation
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        self.grad_norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.plan.grad_clip:
            nn.utils.clip_grads_with_norm_(parameters, self.plan.grad_clip, self.grad_norm)
        self.run.observe(self.at.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.advance()

    def seed_of(self, step: int) -> int:
        """A seed of its own for each step of each process."""
        return (self.plan.seed * MANY + step) * MANY + dist.rank() & (1 << 63) - 1

    def log(self) -> None:
        """The step's numbers; the loss is the mean over all batches of all processes since the last log."""
        loss, count = dist.total(torch.stack([self.losses, torch.full_like(self.losses, self.at.loss_count)])).tolist()
        per_second = f"{self.task.unit}_per_second"
        rate = self.clock.rate() * self.task.units_per_batch
        values = {
            "train_loss": loss / count,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "grad_norm": float(self.grad_norm),
            per_second: rate * dist.world(),
        }
        if self.run.called:  # each process has a run of its own: its own share, beside what all have in common
            values["rank_train_loss"] = float(self.losses) / self.at.loss_count
            values[f"rank_{per_second}"] = rate
        self.losses.zero_()
        self.at.loss_count = 0
        self.run.log(values, self.at.step)
        self.progress.show(self.at.step, values, news=self.run.news())

    def validate(self) -> None:
        """The held-out numbers at this step; the best weights so far are kept."""
        with self.clock.paused():
            self.task.model.eval()
            with torch.no_grad(), self.autocast():
                self.at.validation = self.task.evaluate()
            self.task.model.train()
            self.run.log(self.at.validation, self.at.step)
            self.progress.say(f"step {self.at.step}/{self.steps}  {describe(self.at.validation)}")
        if self.at.validation["val_loss"] < self.at.best_val_loss:
            self.at.best_val_loss = self.at.validation["val_loss"]
            self.save(checkpoint.BEST)

    def save(self, name: str) -> None:
        """A checkpoint of this moment, by rank 0."""
        with self.clock.paused():
            self.at.loss_sum, self.at.time_s = float(self.losses), self.clock.total_s
            self.run.flush()  # who goes on from here does not log again what came before
            if dist.rank() == 0:
                self.write(self.run.store.checkpoints / name)
        if name == checkpoint.LAST:
            self.clock.saved()

    def write(self, path: Path) -> None:
        """The checkpoint's file. A full disk costs this checkpoint, with a warning, and not the training."""
        try:
            checkpoint.save(path, model=self.model, optimizer=self.optimizer, progress=dataclasses.asdict(self.at))
        except (OSError, RuntimeError) as problem:  # torch turns some of the former into the latter
            why = str(problem).partition("\n")[0]
            self.progress.say(f"warning: the checkpoint {path.name} of step {self.at.step} can't be written: {why}")

    def result(self) -> dict[str, float]:
        """What the run came to."""
        ends = {"best_val_loss": self.at.best_val_loss, "total_time_s": self.at.time_s}
        return {"steps": self.at.step, **self.at.validation, **ends}

    def autocast(self) -> torch.autocast:
        """Matrix products in bfloat16 when that is the plan."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.plan.precision == "bf16")
