"""What a training script would do, before it does any of it: sizes, steps, memory, the line that starts it."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import nn

from lib.capacity import Batches, Need, free, size, told
from lib.launch import processes as launching
from lib.loop import Plan
from lib.tasks import batches_per_epoch


def show(
    model: nn.Module,
    wanted: Batches,
    plan: Plan,
    need: Callable[[int], Need],
    *,
    samples: int | None,
    unit: str,
    processes: int,
    device: torch.device,
    per_sample: int = 1,
    gpus: int = -1,
) -> int:
    """Print what training `model` as so many processes comes to; returns the exit status, 0.

    `need` measures for a number of processes. `samples` are those of an epoch, of `per_sample` units each; None where
    the data are not here yet. With `gpus`, the symbol, a plan may be for GPUs that are not on this machine.
    """
    here = None if gpus > 0 and device.type == "cpu" else device
    taken, memory = need(processes), _memory(here, processes)
    fitted = wanted.fitted(processes, lambda count: memory is None or taken.fits(count, memory))
    step = fitted.batch_size * fitted.gradient_accumulation * processes * per_sample
    parameters = sum(parameter.numel() for parameter in model.parameters())
    in_validation = _fits(taken.in_validation(wanted.eval_batch_size), memory, here)
    lines = {
        "model": f"{type(model).__name__}, {parameters:,} parameters",
        "batch": told(fitted, processes) + ("  (HYPER_PARAM_AUTO)" if wanted.hyper_param_auto else ""),
        "steps": _steps(fitted.into(plan), samples, fitted.batch_size * processes, f"{step:,} {unit}", step),
        "training": _fits(taken.of(fitted.batch_size), memory, here) + _parts(taken, fitted.batch_size),
        "validation": f"{in_validation}, with EVAL_BATCH_SIZE={wanted.eval_batch_size}",
        "launch": launching.line(processes, [word for word in sys.argv if not word.startswith("--dry-run")]),
    }
    print("\n".join(f"{what:<10} {text}" for what, text in lines.items()))
    return 0


def _memory(here: torch.device | None, processes: int) -> int | None:
    """Bytes that each of the processes could have; a CPU's memory is one for all of them."""
    return None if here is None else free(here) // (processes if here.type == "cpu" else 1)


def _steps(plan: Plan, samples: int | None, batch: int, a_step: str, units: int) -> str:
    """`2,000 of 491,520 tokens, 983,040,000 in all`, and what else ends the training."""
    ends = f"; ends after {plan.max_time_s:,} s at the latest" if plan.max_time_s else ""
    if samples is None and not plan.max_iters:
        return f"of {a_step}, until {plan.num_epochs} epochs of data that are not here yet are seen{ends}"
    steps = plan.max_iters if samples is None else plan.steps(batches_per_epoch(samples, batch))
    atmost = "at most " if samples is None and plan.num_epochs else ""
    return f"{atmost}{steps:,} of {a_step}, {steps * units:,} in all{ends}"


def _fits(most: int, memory: int | None, here: torch.device | None) -> str:
    """`about 12.9 GiB of 22.0 GiB free on each cuda device`."""
    if here is None or memory is None:
        return f"about {size(most)} on each GPU; there is none here to compare with"
    return f"about {size(most)} of {size(memory)} free on each {here.type} device{' — TOO MUCH' * (most > memory)}"


def _parts(need: Need, batch_size: int) -> str:
    """Where it goes."""
    parts = {
        "weights": need.weights,
        "gradients": need.gradients,
        "optimizer": need.states,
        "kept for backward": need.between(batch_size),
    }
    listed = ", ".join(f"{what} {size(count)}" for what, count in parts.items() if count >= 2**20)
    return f": {listed}" if listed else ""
