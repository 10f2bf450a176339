"""One optimizer step: gradients in the chosen precision, clipped, judged, pruned. Nothing waits for the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lib import capacity, dist
from lib.gpu.trainer import NullMonitor
from lib.loop.average import Average
from lib.loop.guard import Guard
from lib.loop.plan import Plan
from lib.loop.terms import Pruner, Task


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Inside it matrix products are computed in the half precision that `precision` names, if it names one."""
    half = capacity.HALF.get(precision)
    return torch.autocast(device.type, dtype=half or torch.bfloat16, enabled=half is not None)


class Stepper:
    """Makes the steps: `model` is the plain one, `task.model` the one that averages gradients over the processes."""

    def __init__(
        self, task: Task, model: nn.Module, optimizer: Optimizer, pruner: Pruner, monitor: NullMonitor,
        plan: Plan, device: torch.device,
    ) -> None:  # fmt: skip
        self._task, self._model, self._optimizer, self._pruner = task, model, optimizer, pruner
        self._monitor, self._plan, self._device = monitor, plan, device
        self._scaler = torch.amp.GradScaler(device.type, enabled=plan.precision == "fp16")
        self.guard = Guard(plan.guard, plan.spike_factor, device, scaled=plan.precision == "fp16")
        self.average = Average(model, plan.ema_decay)
        self._parts: dict[str, Any] = {  # each has a state, and torch's two methods for it
            "guard": self.guard, "average": self.average, "scaler": self._scaler, "pruner": pruner,
        }  # fmt: skip
        self.losses = torch.zeros((), device=device)  # since the last log; never read in between
        self.norm = torch.zeros((), device=device)  # of the latest gradient, before clipping

    def backward(self, batches: Iterator[Any]) -> None:
        """Add up the gradients of a step's batches; they are exchanged with the other processes at the last one."""
        self._monitor.begins()
        count = self._plan.gradient_accumulation
        for _ in range(count - 1):
            with dist.alone(self._task.model):
                self._backward(self._loss(next(batches)) / count)
        loss = self._loss(next(batches)) / count
        if not dist.is_shared(self._model):  # its backward pass is full of waits for others
            self._monitor.last_backward(loss)
        self._backward(loss)

    def update(self, step: int, rate: float) -> None:
        """Clip and judge the gradients, and step with the learning rate `rate`, unless they are to be left out."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._scaler.unscale_(self._optimizer)
        parameters = [parameter for parameter in self._model.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        self.norm = dist.whole(norm)
        bad = self.guard.judge(self.norm)
        if self._plan.grad_clip:
            nn.utils.clip_grads_with_norm_(parameters, self._plan.grad_clip, norm)
        if not self._left_out(bad):
            skip = self._skip(bad)
            self._pruner.before_step(rate, skip=skip)
            self._scaler.step(self._optimizer)
            self.average.update(skip)
        self._scaler.update()
        self._pruner.after_step(step)
        self._optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """What the next step depends on, beside weights and position; tensors and plain values."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def restore(self, state: dict[str, Any]) -> None:
        for name, part in self._parts.items():
            part.load_state_dict(state[name])

    def _loss(self, batch: Any) -> Tensor:
        with autocast(self._device, self._plan.precision):
            loss = self._task.loss(batch)
        self.losses += loss.detach()
        return loss

    def _backward(self, loss: Tensor) -> None:
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def _skip(self, bad: Tensor | None) -> Tensor | None:
        """1.0 on the device where the guard or the scaler leaves the step out, else 0.0; None when neither does."""
        skip = bad if self.guard.skips else None
        if not self._scaler.is_enabled():
            return skip
        overflow = (~torch.isfinite(self.norm)).float()  # the scaler looks at each gradient and finds the same
        return overflow if skip is None else torch.maximum(skip, overflow)

    def _left_out(self, bad: Tensor | None) -> bool:
        """Whether the host leaves the step out. A fused optimizer on an accelerator is told to, and nobody waits."""
        if bad is None or not self.guard.skips:
            return False
        if self._device.type == "cpu":
            return bool(bad)
        if getattr(self._optimizer, "_step_supports_amp_scaling", False) and not self._scaler.is_enabled():
            self._optimizer.grad_scale, self._optimizer.found_inf = None, bad  # type: ignore[attr-defined]
            return False
        return bool(bad)
