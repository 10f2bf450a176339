"""The training loop that every model shares: steps, validation, checkpoints, what is logged, and a safe way to stop.

A model comes as a `Task`; the loop knows nothing else of it. A step is one optimizer step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.optim import Optimizer

from lib import capacity, checkpoint, dist
from lib.errors import Refused
from lib.gpu.trainer import NullMonitor
from lib.loop.clock import Clock, Stop
from lib.loop.plan import Plan, Position
from lib.loop.speed import peak_flops, peak_memory_mib
from lib.loop.stepper import Stepper, autocast
from lib.loop.terms import Pruner, Task
from lib.progress import Progress, describe
from lib.prune import NullPruner
from lib.track.run import NullRun, Run

__all__ = ["Plan", "Position", "Pruner", "Task", "autocast", "fit"]

MANY = 1_000_003  # keeps the seeds of neighbouring runs, steps and processes apart
GO_ON, FINISH, LEAVE = range(3)


def fit(
    task: Task,
    optimizer: Optimizer,
    run: Run | NullRun,
    plan: Plan,
    *,
    device: torch.device,
    pruner: Pruner | None = None,
    monitor: NullMonitor | None = None,
) -> int:
    """Train `task` to the end of `plan`, from the last checkpoint in the run's folder when there is one.

    Returns the exit status: 0 when the plan is done, 128 + signal when SIGINT or SIGTERM stopped it after a checkpoint.

    Raises:
        Refused: the checkpoints can't be used, the device's memory is too small, or GUARD=stop found a bad gradient.
    """
    loop = Loop(task, optimizer, run, plan, device, pruner or NullPruner(), monitor or NullMonitor())
    with loop.stop.watching(), loop.progress, explained(task, plan), averaging(task):
        with loop.monitor:
            loop.restore()
            loop.train()
        loop.watch()  # the last window, however short
        for line in loop.monitor.news():
            loop.progress.say(line)
    if not loop.finished:
        number = loop.stop.signal or signal.SIGTERM  # another process may have been the one to get it
        run.interrupted(signal.Signals(number).name)
        return 128 + number
    run.finish(loop.result())
    return 0


@contextlib.contextmanager
def explained(task: Task, plan: Plan) -> Iterator[None]:
    """Inside it, memory that runs out becomes one line with what to change."""
    try:
        yield
    except torch.OutOfMemoryError as problem:
        advice = capacity.advice(task.batch_size, plan.gradient_accumulation)
        raise Refused(f"out of memory ({str(problem).partition('. ')[0]}). {advice}") from problem


@contextlib.contextmanager
def averaging(task: Task) -> Iterator[None]:
    """Inside it the task's model averages its gradients over the processes, and keeps their group from ending."""
    plain = task.model
    task.model = dist.wrap(plain)
    try:
        yield
    finally:
        task.model = plain


class Loop:
    """One call of `fit`."""

    def __init__(
        self, task: Task, optimizer: Optimizer, run: Run | NullRun, plan: Plan, device: torch.device, pruner: Pruner,
        monitor: NullMonitor,
    ) -> None:  # fmt: skip
        self.task, self.optimizer, self.run, self.plan, self.device = task, optimizer, run, plan, device
        self.pruner, self.monitor = pruner, monitor
        self.model = task.model  # as it is saved; the task calls the one that averages gradients over the processes
        if plan.compile:
            self.model.compile()
        self.steps = plan.steps(task.batches_per_epoch)
        self.at = Position(world=dist.world())
        self.stop = Stop()
        self.finished = False
        self.progress = Progress(self.steps, shown=dist.rank() == 0)
        self.stepper = Stepper(task, self.model, optimizer, pruner, monitor, plan, device)
        self.clock = Clock()
        self.peak = peak_flops(device, plan.precision)
        pruner.start(self.steps)
        if plan.watch_interval:
            run.watch(self.model, plan.watch_interval)

    def restore(self) -> None:
        """Go back to the newest checkpoint that is whole, if there is one."""
        if saved := self.newest():
            for line in saved.passed_over:
                self.progress.say(f"warning: {line}")
            self.load(saved)
            if self.at.world != dist.world():
                raise Refused(
                    f"{saved.path}: trained by {self.at.world} processes, now there are {dist.world()}. "
                    f"Start {self.at.world} (NPROC={self.at.world}), or a new run with RESUME=n"
                )
            self.clock.earlier_s = self.at.time_s
        if self.run.store.attempts > 1:
            self.run.rewind(self.at.step or -1)  # step 0 is validated again
            self.progress.say(f"goes on after step {self.at.step} of {self.steps}")
        self.progress.resume(self.at.step)

    def newest(self) -> checkpoint.Saved | None:
        """The checkpoint to go on from, as rank 0 finds it. Raises Refused, on every process, when all are damaged."""
        found: checkpoint.Saved | Refused | None = None
        if dist.rank() == 0:
            try:
                found = checkpoint.latest(self.run.store.checkpoints)
            except Refused as refusal:
                found = refusal
        agreed: checkpoint.Saved | Refused | None = dist.agreed(found)
        if isinstance(agreed, Refused):
            raise agreed
        return agreed

    def load(self, saved: checkpoint.Saved) -> None:
        """Put what was saved back where it came from. Raises Refused when it is another model's."""
        weights, state = saved.load()
        try:
            self.at = Position(**state["progress"])
            dist.put(self.model, self.optimizer, weights, state["optimizer"])
            self.stepper.restore(state)
        except (RuntimeError, KeyError, ValueError, TypeError) as problem:
            raise saved.refusal(problem) from problem
        self.stepper.losses += state["losses"][dist.rank() % len(state["losses"])]

    def train(self) -> None:
        """Every step from where we are to the end, or until we are told to stop."""
        if self.at.step % self.plan.eval_interval == 0 and self.at.validated != self.at.step:
            self.validate()  # at the start, or where a signal came first
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
                self.at.time_s = self.clock.total_s  # as the journal and the result both say it
                layers = {f"sparsity/{layer}": share for layer, share in self.pruner.layers().items()}
                ends = {"best_val_loss": self.at.best_val_loss, "total_time_s": self.at.time_s}
                self.run.log(ends | layers, self.at.step)
            if self.plan.checkpoint_every and self.at.step % self.plan.checkpoint_every == 0:
                self.save("step")
            if ended or (logs and self.save_is_due()):
                self.save("last")

    def told_to_stop(self, logs: bool) -> int:
        """GO_ON, FINISH when the time is up, LEAVE after a signal; processes agree on it at steps that are logged."""
        told = GO_ON
        if 0 < self.plan.max_time_s <= self.clock.total_s:
            told = FINISH
        if self.stop.signal:
            told = LEAVE
        if dist.world() > 1 and not logs:
            return GO_ON
        return dist.highest(told, self.device)

    def save_is_due(self) -> bool:
        """Whether the time between two checkpoints is over; the processes agree, because saving may need them all."""
        due = self.clock.since_save_s >= self.plan.checkpoint_interval_s
        return bool(dist.highest(int(due), self.device))

    def step(self, batches: Iterator[Any]) -> None:
        """One optimizer step."""
        self.at.step += 1
        torch.manual_seed(self.seed_of(self.at.step))  # what is random in a step (dropout) needs no state to resume
        self.stepper.backward(batches)
        self.at.loss_count += self.plan.gradient_accumulation
        self.clock.batches += self.plan.gradient_accumulation
        self.run.observe(self.at.step)
        self.stepper.update(self.at.step, self.plan.rate(self.at.step, self.steps))
        self.progress.advance()

    def seed_of(self, step: int) -> int:
        """A seed of its own for each step of each process."""
        return (self.plan.seed * MANY + step) * MANY + dist.rank() & (1 << 63) - 1

    def log(self) -> None:
        """The step's numbers; the loss is the mean over all batches of all processes since the last log."""
        losses = self.stepper.losses
        loss, count = dist.total(torch.stack([losses, torch.full_like(losses, self.at.loss_count)])).tolist()
        per_second = f"{self.task.unit}_per_second"
        rate = self.clock.rate() * self.task.units_per_batch
        values = {
            "train_loss": loss / count,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "grad_norm": float(self.stepper.norm),
            "sparsity": self.pruner.sparsity,
            per_second: rate * dist.world(),
            **self.pruner.logged,
        }
        if self.peak:
            values["mfu"] = rate * self.task.flops_per_unit / self.peak
        if self.run.called:  # each process has a run of its own: its own share, beside what all have in common
            values["rank_train_loss"] = float(losses) / self.at.loss_count
            values[f"rank_{per_second}"] = rate
        units = self.at.loss_count * self.task.units_per_batch * dist.world()
        losses.zero_()
        self.at.loss_count = 0
        self.run.log(values, self.at.step)
        self.monitor.mark(self.at.step, units)
        self.watch()
        self.progress.show(self.at.step, values, news=[*self.run.news(), *self.monitor.news()])
        if found := self.stepper.guard.report(self.at.step):
            self.progress.say(found)

    def watch(self) -> None:
        """Log what the GPUs did in each window that is over."""
        for window in self.monitor.windows():
            self.run.log(window.values, window.step)

    def validate(self) -> None:
        """The held-out numbers at this step; the best weights so far are kept."""
        with self.clock.paused(), torch.no_grad(), self.stepper.average.applied():
            self.pruner.zero(dict(self.model.named_parameters()))  # an average of pruned weights is not zero
            self.task.model.eval()
            with autocast(self.device, self.plan.precision):
                self.at.validation = self.task.evaluate()
            self.at.validated = self.at.step
            self.task.model.train()
            self.run.log(self.at.validation, self.at.step)
            self.progress.say(f"step {self.at.step}/{self.steps}  {describe(self.at.validation)}")
            if self.is_best():
                self.at.best_val_loss = self.at.validation["val_loss"]
                self.save("best")

    def is_best(self) -> bool:
        """Whether these weights are the best: a sparser network is compared only with those that are as sparse."""
        if self.pruner.sparsity > self.at.best_sparsity:
            self.at.best_sparsity, self.at.best_val_loss = self.pruner.sparsity, math.inf
        return self.at.validation["val_loss"] < self.at.best_val_loss

    def save(self, kind: checkpoint.Kind) -> None:
        """A checkpoint of this moment, written by rank 0: the weights alone as the best, or all that going on needs."""
        with self.clock.paused():
            self.at.time_s = self.at.time_s if self.finished else self.clock.total_s
            losses = dist.each(self.stepper.losses)
            self.run.flush()  # who goes on from here does not log again what came before
            weights, moments = dist.states(self.model, None if kind == "best" else self.optimizer)
            state = {"optimizer": moments, "progress": dataclasses.asdict(self.at), "losses": losses}
            if dist.rank() == 0:
                self.write(kind, weights, None if kind == "best" else state | self.stepper.state())
        if kind == "last":
            self.clock.saved()

    def write(self, kind: checkpoint.Kind, weights: dict[str, torch.Tensor], state: dict[str, Any] | None) -> None:
        """The checkpoint's files. A full disk costs this checkpoint, with a warning, and not the training."""
        meta = {"world": self.at.world, "threads": torch.get_num_threads(), **self.at.validation}
        try:
            checkpoint.save(
                self.run.store.checkpoints, kind, self.at.step, model=weights, training=state, meta=meta,
                keep=self.plan.checkpoint_keep,
            )  # fmt: skip
        except OSError as problem:
            why = str(problem).partition("\n")[0]
            self.progress.say(f"warning: the {kind} checkpoint of step {self.at.step} can't be written: {why}")

    def result(self) -> dict[str, float]:
        """What the run came to."""
        ends = {"best_val_loss": self.at.best_val_loss, "total_time_s": self.at.time_s}
        ends |= {"sparsity": self.pruner.sparsity, "peak_memory_mib": peak_memory_mib(self.device)}
        return {"steps": self.at.step, **self.at.validation, **ends}
