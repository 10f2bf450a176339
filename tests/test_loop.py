"""The training loop: what it logs, when it validates and saves, and that stopping it anywhere changes no number."""

from __future__ import annotations

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

from lib import checkpoint, dist, loop
from lib.errors import Refused
from lib.journal import lines
from lib.track.run import Run
from lib.track.settings import Settings

CPU = torch.device("cpu")
PLAN = loop.Plan(
    learning_rate=0.1, min_learning_rate=0.01, warmup_steps=4, grad_clip=0.0, gradient_accumulation=2, num_epochs=0,
    max_iters=20, max_time_s=0, log_interval=5, eval_interval=8, watch_interval=0, checkpoint_interval_s=0,
    precision="fp32", seed=0,
)  # fmt: skip


class Line:
    """A task with one known answer: fit y = 3 x; batch m is a function of m alone."""

    unit = "images"
    units_per_batch = 4
    batches_per_epoch = 10

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
    tmp_path: Path, plan: loop.Plan = PLAN, *, run: Run | None = None, stop_at: int = 0, dropout: float = 0.0
) -> tuple[int, Run, Line]:
    files = {"config.json": "{}"}
    run = run or Run.create(tmp_path, "p", "run", texts=files, trackers=Settings(60))
    task = Line(stop_at, dropout)
    with run:
        optimizer = torch.optim.AdamW(task.model.parameters(), lr=1.0)
        return loop.fit(task, optimizer, run, plan, device=CPU), run, task


def logged(run: Run, name: str) -> dict[int, Any]:
    return {line.step: line.values[name] for line in lines.read(run.store.path) if name in line.values}


def test_it_logs_and_validates_at_the_steps_that_were_asked_for(tmp_path: Path) -> None:
    status, run, task = train(tmp_path)
    assert status == 0
    assert list(logged(run, "train_loss")) == [5, 10, 15, 20]
    assert list(logged(run, "val_loss")) == [0, 8, 16, 20]
    assert list(logged(run, "best_val_loss")) == [20] == list(logged(run, "total_time_s"))
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
    _, run, task = train(tmp_path, loop.Plan(**{**PLAN.__dict__, "watch_interval": 10}))
    media = [(line.step, line.media["name"]) for line in lines.read(run.store.path) if line.media]
    layers = [name for name, _ in task.model.named_parameters()]
    of_a_step = [f"{what}/{name}" for name in layers for what in ("weights", "gradients")]
    assert media == [(step, name) for step in (10, 20) for name in of_a_step]


def test_the_best_checkpoint_is_that_of_the_lowest_validation_loss(tmp_path: Path) -> None:
    _, run, _ = train(tmp_path)
    losses = logged(run, "val_loss")
    state = torch.load(run.store.checkpoints / checkpoint.BEST, weights_only=True)
    best = min(losses, key=lambda step: losses[step])
    assert state["progress"]["step"] == best and state["progress"]["best_val_loss"] == losses[best]
    result = run.store.result
    assert result and result["best_val_loss"] == losses[best] and result["steps"] == 20


@pytest.mark.parametrize("stop_at", [1, 9, 17, 36])
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


def test_a_run_goes_on_with_as_many_processes_as_it_had(tmp_path: Path) -> None:
    _, run, _ = train(tmp_path, stop_at=9)
    path = run.store.checkpoints / checkpoint.LAST
    state = torch.load(path, weights_only=True)
    state["progress"]["world"] = 2
    torch.save(state, path)
    with pytest.raises(Refused, match=r"trained by 2 processes, now there are 1. Start 2 "):
        train(tmp_path, run=Run(run.store, Settings(60)))


def test_a_checkpoint_that_can_not_be_written_costs_a_warning_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    status, run, _ = train(tmp_path)
    assert status == 0 and run.store.state() == "finished"
    assert "warning: the checkpoint last.pt of step 5 can't be written" in capsys.readouterr().out


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
        loop.fit(task, optimizer, run, loop.Plan(**{**PLAN.__dict__, "max_iters": 1}), device=CPU)
    assert any(torch.isfinite(grad).all() for grad in seen)


def test_a_signal_in_the_last_step_does_not_cost_the_end_of_the_run(tmp_path: Path) -> None:
    status, run, _ = train(tmp_path, stop_at=39)
    assert status == 0 and run.store.state() == "finished"
    assert 20 in logged(run, "val_loss")


def test_training_ends_with_the_first_limit(tmp_path: Path) -> None:
    def plan(**limits: int) -> loop.Plan:
        return loop.Plan(**{**PLAN.__dict__, "max_iters": 0, **limits})

    assert plan(num_epochs=3).steps(10) == 15
    assert plan(num_epochs=3, max_iters=4).steps(10) == 4
    with pytest.raises(Refused, match="Set one of them"):
        plan().steps(10)
    began = time.monotonic()
    assert train(tmp_path, plan(max_iters=10**9, max_time_s=1))[0] == 0
    assert time.monotonic() - began < 10


def test_a_checkpoint_that_can_not_be_read_is_one_line(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    path = tmp_path / "checkpoints" / checkpoint.LAST
    checkpoint.save(path, model=model, optimizer=optimizer, progress={"step": 3})
    assert checkpoint.load(path, model=model, optimizer=optimizer, device=CPU) == {"step": 3}
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(Refused, match="RESUME=n starts a new run"):
        checkpoint.load(path, model=model, optimizer=optimizer, device=CPU)
    assert not list(path.parent.glob("*.tmp"))


def test_gradients_are_clipped_where_that_is_the_plan(tmp_path: Path) -> None:
    task = Line()
    run = Run.create(tmp_path, "p", "run", texts={}, trackers=Settings(60))
    plan = loop.Plan(**{**PLAN.__dict__, "grad_clip": 0.5, "max_iters": 1, "log_interval": 1})
    seen = []

    class Watch(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            seen.append(
                float(torch.cat([p.grad.flatten() for p in task.model.parameters() if p.grad is not None]).norm())
            )

    with run:
        loop.fit(task, Watch(task.model.parameters(), lr=1.0), run, plan, device=CPU)
    assert seen == [pytest.approx(0.5, rel=1e-4)]
    assert logged(run, "grad_norm")[1] > 0.5, "what is logged is the norm before clipping"


def test_a_device_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(Refused, match=r"DEVICE=cuda: .* Use DEVICE=auto, or one of: cpu"):
        dist.device("cuda")
    assert dist.device("auto") == dist.device("cpu") or torch.backends.mps.is_available()
