"""How long and how to train, and how far training is: plain values, and the learning rate that follows from them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from lib.errors import Refused


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
    checkpoint_keep: int = 1
    checkpoint_every: int = 0
    ema_decay: float = 0.0
    guard: str = "warn"
    spike_factor: float = 0.0
    compile: bool = False

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
    best_sparsity: float = 0.0  # of the weights with that loss
    loss_count: int = 0  # batches of one process since the last log
    time_s: float = 0.0  # in earlier attempts and this one
    world: int = 1  # processes
    validation: dict[str, float] = dataclasses.field(default_factory=dict)  # the latest
    validated: int = -1  # the step of that
