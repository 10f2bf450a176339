"""Steps that are left out: which gradients the guard finds bad, and what such a step leaves as it was."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from test_loop import CPU, Line, plan
from torch import Tensor

from lib import prune
from lib.gpu.trainer import NullMonitor
from lib.loop.guard import Guard
from lib.loop.stepper import Stepper


def test_the_guard_is_silent_while_all_is_well_and_when_it_is_off() -> None:
    for mode in ("off", "warn"):
        guard = Guard(mode, 3.0, CPU)
        for step in range(40):
            bad = guard.judge(torch.tensor(1.0 + 0.1 * (step % 3)))
            assert bad is None if mode == "off" else float(bad or 0) == 0
        guard.judge(torch.tensor(10.0))
        assert guard.report(40) == "" if mode == "off" else "1 gradient" in guard.report(40)


def test_an_overflow_of_a_scaled_loss_is_the_scalers_and_a_spike_is_not() -> None:
    guard = Guard("stop", 3.0, CPU, scaled=True)
    judged = [bool(guard.judge(torch.tensor(norm))) for norm in [math.inf, *[1.0] * 30, math.inf, 5.0]]
    assert judged == [False] * 32 + [True]


def test_a_rise_that_lasts_is_no_spike_for_ever() -> None:
    guard = Guard("skip", 3.0, CPU)
    norms = [1.0] * 40 + [4.0] * 200
    left_out = [bool(guard.judge(torch.tensor(norm))) for norm in norms]
    assert sum(left_out[40:]) < 40 and not any(left_out[-100:])


@pytest.mark.parametrize("guard", ["warn", "skip"])
def test_a_step_that_the_scaler_leaves_out_moves_no_average_and_no_learned_score(guard: str) -> None:
    task, spoil = Line(), [1.0]
    _, bias = task.model.parameters()
    bias.register_hook(lambda grad: grad * spoil[0])
    learned = prune.Settings(0.5, movement_kind="learned")
    pruner = prune.build("movement", task.model, learned, moments=lambda _: None)
    pruner.start(1000)
    half = plan(precision="fp16", ema_decay=0.9, guard=guard)
    optimizer = torch.optim.SGD(task.model.parameters(), lr=1.0)
    stepper = Stepper(task, task.model, optimizer, pruner, NullMonitor(), half, CPU)
    batches = task.batches(0)

    def parts() -> list[Tensor]:
        state = stepper.state()
        return [*task.model.parameters(), *state["average"]["mean"], state["pruner"]["carried"]["scores"]["1"]]

    def moved(step: int) -> list[bool]:
        """Which of the weights, their averages and the score this step moves."""
        before = copy.deepcopy(parts())
        stepper.backward(batches)
        stepper.update(step, 0.01)
        return [not torch.equal(one, other) for one, other in zip(before, parts(), strict=True)]

    for step in range(1, 11):  # until the scale has settled
        moved(step)
    assert moved(11) == [True] * 5
    spoil[0] = math.inf
    assert moved(12) == [False] * 5
    spoil[0] = 1.0
    assert moved(13) == [True] * 5
