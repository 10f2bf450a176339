"""The training loop: what it logs, when it validates and saves, and that stopping it anywhere changes no number."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lib import checkpoint, dist, evaluate, loop
from lib.errors import Refused
from lib.journal import lines
from lib.loop.average import Average
from lib.loop.clock import Clock, Stop
from lib.loop.plan import Position
from lib.track.run import Run
from lib.track.settings import Settings

CPU = torch.device("cpu")
PLAN = loop.Plan(
    learning_rate=0.1, min_learning_rate=0.01, warmup_steps=4, grad_clip=0.0, gradient_accumulation=2, num_epochs=0,
    max_iters=20, max_time_s=0, log_interval=5, eval_interval=8, watch_interval=0, checkpoint_interval_s=0,
    precision="fp32", seed=0,
)  # fmt: skip


def plan(**changed: Any) -> loop.Plan:
    return dataclasses.replace(PLAN, **changed)


class Line:
    """A task with one known answer: fit y = 3 x; batch m is a function of m alone."""

    unit = "images"
    batch_size = units_per_batch = 4
    batches_per_epoch = 10
    flops_per_unit = 6.0

    def __init__(self, stop_at: int = 0, dropout: float = 0.0) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Sequential(nn.Dropout(dropout), nn.Linear(1, 1))
        self.stop_at = stop_at
        self.modes: list[bool] = []

    def batches(self, first: int) -> Iterator[Tensor]:
        while True:
            if self.stop_at and first == self.stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            yield torch.linspace(0.1, 1, 4).unsqueeze(1) + 0.01 * first  # (4, 1)
            first += 1

    def loss(self, batch: Tensor) -> Tensor:
        self.modes.append(self.model.training)
        return nn.functional.mse_loss(self.model(batch), 3 * batch)

    def evaluate(self) -> dict[str, float]:
        assert not self.model.training and not torch.is_grad_enabled()
        loss = float(nn.functional.mse_loss(self.model(torch.ones(1, 1)), torch.full((1, 1), 3.0)))
        return {"val_loss": loss, "val_perplexity": math.exp(min(loss, 20))}


def train(
    tmp_path: Path, by: loop.Plan = PLAN, *, run: Run | None = None, stop_at: int = 0, dropout: float = 0.0
) -> tuple[int, Run, Line]:
    files = {"config.json": "{}"}
    run = run or Run.create(tmp_path, "p", "run", texts=files, trackers=Settings(60))
    task = Line(stop_at, dropout)
    with run:
        optimizer = torch.optim.AdamW(task.model.parameters(), lr=1.0)
        return loop.fit(task, optimizer, run, by, device=CPU), run, task


def logged(run: Run, name: str) -> dict[int, Any]:
    return {line.step: line.values[name] for line in lines.read(run.store.path) if name in line.values}


def test_it_logs_and_validates_at_the_steps_that_were_asked_for(tmp_path: Path) -> None:
    status, run, task = train(tmp_path)
    assert status == 0
    assert list(logged(run, "train_loss")) == [5, 10, 15, 20]
    assert list(logged(run, "val_loss")) == [0, 8, 16, 20]
    assert list(logged(run, "best_val_loss")) == [20]
    assert run.store.result and logged(run, "total_time_s") == {20: run.store.result["total_time_s"]}
    assert logged(run, "val_perplexity")[20] == math.exp(min(logged(run, "val_loss")[20], 20))
    assert len(task.modes) == 40 and all(task.modes)
    assert {"learning_rate", "grad_norm", "images_per_second"} <= lines.read(run.store.path)[1].values.keys()


def test_the_logged_loss_is_the_mean_since_the_last_log(tmp_path: Path) -> None:
    """Against a plain loop over the same batches with the same optimizer."""
    _, run, _ = train(tmp_path)
    task = Line()
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1.0)
    batches, losses = task.batches(0), []
    for step in range(1, 21):
        for group in optimizer.param_groups:
            group["lr"] = PLAN.rate(step, 20)
        for _ in range(2):
            loss = task.loss(next(batches))
            losses.append(float(loss.detach()))
            (loss / 2).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    for step, value in logged(run, "train_loss").items():
        assert value == pytest.approx(sum(losses[2 * step - 10 : 2 * step]) / 10, rel=1e-6)


def test_the_learning_rate_warms_up_and_falls_to_its_floor() -> None:
    rates = [PLAN.rate(step, 20) for step in range(1, 21)]
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1]) and rates[-1] == pytest.approx(0.01)
    assert rates[11] == pytest.approx(0.055) and rates[3:] == sorted(rates[3:], reverse=True)


def test_what_is_watched_is_a_histogram_of_each_layers_weights_and_gradients(tmp_path: Path) -> None:
    _, run, task = train(tmp_path, plan(watch_interval=10))
    media = [(line.step, line.media["name"]) for line in lines.read(run.store.path) if line.media]
    layers = [name for name, _ in task.model.named_parameters()]
    of_a_step = [f"{what}/{name}" for name in layers for what in ("weights", "gradients")]
    assert media == [(step, name) for step in (10, 20) for name in of_a_step]


def test_the_best_checkpoint_is_that_of_the_lowest_validation_loss(tmp_path: Path) -> None:
    _, run, _ = train(tmp_path)
    losses = logged(run, "val_loss")
    saved = checkpoint.best(run.store.checkpoints)
    best = min(losses, key=lambda step: losses[step])
    assert saved.step == best and saved.meta["val_loss"] == losses[best]
    result = run.store.result
    assert result and result["best_val_loss"] == losses[best] and result["steps"] == 20


def test_checkpoints_are_kept_as_the_plan_says(tmp_path: Path) -> None:
    _, run, _ = train(tmp_path, plan(checkpoint_keep=2, checkpoint_every=6))
    names = [path.name for path in sorted(run.store.checkpoints.iterdir()) if not path.name.startswith("best")]
    assert names == [
        "last-00000010", "last-00000015", "last-00000020", "step-00000006", "step-00000012", "step-00000018",
    ]  # fmt: skip


@pytest.mark.parametrize("stop_at", [1, 9, 15, 17, 36])  # 15: in step 8, after which it would validate
def test_a_run_that_was_stopped_logs_what_an_undisturbed_one_does(tmp_path: Path, stop_at: int) -> None:
    _, whole, task = train(tmp_path, dropout=0.3)
    status, run, _ = train(tmp_path, stop_at=stop_at, dropout=0.3)
    assert status == 128 + signal.SIGTERM and run.store.state() == "interrupted"
    status, run, resumed = train(tmp_path, run=Run(run.store, Settings(60)), dropout=0.3)
    assert status == 0 and run.store.state() == "finished"
    for name in ("train_loss", "val_loss", "learning_rate", "grad_norm"):
        assert logged(run, name) == logged(whole, name), name
    for one, other in zip(task.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_goes_on_with_as_many_processes_as_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "Position", lambda world=1, **given: Position(world=2, **given))
    _, run, _ = train(tmp_path, stop_at=9)
    monkeypatch.undo()
    with pytest.raises(Refused, match=r"trained by 2 processes, now there are 1. Start 2 "):
        train(tmp_path, run=Run(run.store, Settings(60)))


def test_weights_of_another_shape_are_one_line_in_an_evaluation(tmp_path: Path) -> None:
    _, run, _ = train(tmp_path)
    other = Line()
    other.model = nn.Sequential(nn.Dropout(), nn.Linear(2, 1))
    with pytest.raises(Refused, match=r"this checkpoint can't be used"):
        evaluate.again(other, str(run.store.path), CPU, data="", precision="fp32")


def test_a_checkpoint_that_can_not_be_written_costs_a_warning_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    status, run, _ = train(tmp_path)
    assert status == 0 and run.store.state() == "finished"
    assert "warning: the last checkpoint of step 5 can't be written" in capsys.readouterr().out


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, whole, _ = train(tmp_path)
    _, run, _ = train(tmp_path, stop_at=36)
    newest = checkpoint.found(run.store.checkpoints, "last")[0] / "training.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    status, run, _ = train(tmp_path, run=Run(run.store, Settings(60)))
    assert status == 0 and logged(run, "train_loss") == logged(whole, "train_loss")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning:")]
    assert len(said) == 1 and newest.parent.name in said[0]


def test_one_gradient_of_inf_does_not_spoil_the_others_when_clipping_is_off(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Watch(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            seen.extend(p.grad.clone() for group in self.param_groups for p in group["params"])

    task = Line()
    next(iter(task.model.parameters())).register_hook(lambda grad: grad * math.inf)
    run = Run.create(tmp_path, "p", "run", texts={}, trackers=Settings(60))
    with run:
        optimizer = Watch(task.model.parameters(), lr=1.0)
        loop.fit(task, optimizer, run, plan(max_iters=1), device=CPU)
    assert any(torch.isfinite(grad).all() for grad in seen)


def test_a_hang_up_that_nohup_has_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = Stop()
        with stop.watching():
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.signal
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_best_checkpoint_in_a_validation_does_not_count_as_two_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("lib.loop.clock.time.monotonic", lambda: now)
    clock = Clock()
    clock.batches, now = 10, 1.0
    with clock.paused():
        now = 3.0
        with clock.paused():
            now = 8.0
    now = 9.0
    assert clock.rate() == 5.0, "10 batches in the two seconds outside"


def test_a_signal_in_the_last_step_does_not_cost_the_end_of_the_run(tmp_path: Path) -> None:
    status, run, _ = train(tmp_path, stop_at=39)
    assert status == 0 and run.store.state() == "finished"
    assert 20 in logged(run, "val_loss")


def test_training_ends_with_the_first_limit(tmp_path: Path) -> None:
    assert plan(max_iters=0, num_epochs=3).steps(10) == 15
    assert plan(num_epochs=3, max_iters=4).steps(10) == 4
    with pytest.raises(Refused, match="Set one of them"):
        plan(max_iters=0)
    began = time.monotonic()
    assert train(tmp_path, plan(max_iters=10**9, max_time_s=1))[0] == 0
    assert time.monotonic() - began < 10


def test_gradients_are_clipped_where_that_is_the_plan(tmp_path: Path) -> None:
    task = Line()
    run = Run.create(tmp_path, "p", "run", texts={}, trackers=Settings(60))
    seen = []

    class Watch(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            seen.append(
                float(torch.cat([p.grad.flatten() for p in task.model.parameters() if p.grad is not None]).norm())
            )

    with run:
        clipped = plan(grad_clip=0.5, max_iters=1, log_interval=1)
        loop.fit(task, Watch(task.model.parameters(), lr=1.0), run, clipped, device=CPU)
    assert seen == [pytest.approx(0.5, rel=1e-4)]
    assert logged(run, "grad_norm")[1] > 0.5, "what is logged is the norm before clipping"


def test_a_device_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(Refused, match=r"DEVICE=cuda: .* Use DEVICE=auto, or one of: cpu"):
        dist.device("cuda")
    assert dist.device("auto") == dist.device("cpu") or torch.backends.mps.is_available()


def spoiled(task: Line, at: int, by: float) -> None:
    """Multiply the gradient of the `at`-th backward pass by `by`."""
    seen = []

    def hook(grad: Tensor) -> Tensor:
        seen.append(1)
        return grad * by if len(seen) == at else grad

    next(iter(task.model.parameters())).register_hook(hook)


@pytest.mark.parametrize(("by", "factor"), [(math.nan, 0.0), (math.inf, 0.0), (1e6, 50.0)])
def test_a_bad_step_is_left_out_where_that_is_the_plan(
    tmp_path: Path, by: float, factor: float, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Line()
    spoiled(task, 61, by)
    run = Run.create(tmp_path, "p", "run", texts={}, trackers=Settings(60))
    skipping = plan(guard="skip", spike_factor=factor, max_iters=40)
    before: dict[int, list[Tensor]] = {}

    class Watch(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            super().step()
            before[len(before)] = [p.detach().clone() for p in task.model.parameters()]

    with run:
        assert loop.fit(task, Watch(task.model.parameters(), lr=1.0), run, skipping, device=CPU) == 0
    assert len(before) == 39, "one step of 40 is left out"
    assert all(torch.isfinite(value).all() for values in before.values() for value in values)
    assert "step 35: since the last log, 1 gradient that was" in capsys.readouterr().out


def test_a_bad_step_ends_the_run_where_that_is_the_plan_and_the_last_weights_are_good(tmp_path: Path) -> None:
    task = Line()
    spoiled(task, 21, math.nan)
    run = Run.create(tmp_path, "p", "run", texts={}, trackers=Settings(60))
    with pytest.raises(Refused, match=r"step 15: since the last log, 1 gradient .* not finite; GUARD=stop"), run:
        loop.fit(task, torch.optim.SGD(task.model.parameters(), lr=0.1), run, plan(guard="stop"), device=CPU)
    saved = checkpoint.latest(run.store.checkpoints)
    assert saved and saved.step == 10 and run.store.state() == "failed"


def test_averaged_weights_follow_the_formula_and_are_what_is_validated(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    average, expected = Average(model, 0.9), [p.detach().clone() for p in model.parameters()]
    for step in range(5):
        with torch.no_grad():
            for parameter, mean in zip(model.parameters(), expected, strict=True):
                parameter.add_(step)
                mean.mul_(0.9).add_(parameter, alpha=0.1)
        average.update()
    live = [p.detach().clone() for p in model.parameters()]
    with average.applied():
        for parameter, mean in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.detach(), mean)
    assert all(torch.equal(one, other) for one, other in zip(live, model.parameters(), strict=True))
    _, plain, _ = train(tmp_path)
    _, smooth, _ = train(tmp_path, plan(ema_decay=0.9))
    assert logged(plain, "train_loss") == logged(smooth, "train_loss"), "the optimizer goes on with its own"
    assert logged(plain, "val_loss") != logged(smooth, "val_loss")


def test_a_run_with_all_that_has_a_state_goes_on_bit_for_bit(tmp_path: Path) -> None:
    stateful = plan(ema_decay=0.9, guard="skip", spike_factor=100.0)
    _, whole, _ = train(tmp_path, stateful)
    _, run, _ = train(tmp_path, stateful, stop_at=17)
    _, run, _ = train(tmp_path, stateful, run=Run(run.store, Settings(60)))
    assert logged(run, "val_loss") == logged(whole, "val_loss")


def test_half_precision_scales_its_loss_and_reaches_the_same_place(tmp_path: Path) -> None:
    _, exact, _ = train(tmp_path)
    _, half, _ = train(tmp_path, plan(precision="fp16"))
    assert logged(half, "val_loss")[20] == pytest.approx(logged(exact, "val_loss")[20], abs=0.05)
    state = checkpoint.latest(half.store.checkpoints)
    assert state and state.load()[1]["scaler"]["scale"] > 1
