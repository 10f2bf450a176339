"""Stochastic gradient descent with momentum (Polyak 1964, without dampening), in torch's fused kernel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.sgd import sgd

from lib.optim.settings import Groups, Settings, needed
from lib.optim.shares import own_share


def build(groups: Groups, settings: Settings) -> Optimizer:
    return SGD(groups, settings.learning_rate, needed("sgd", momentum=settings.momentum)["momentum"])


class SGD(torch.optim.SGD):
    """torch's, but for two things that its fused kernel has no answer to.

    It takes no tensors that are sharded: it gets each process's own share. And it makes a momentum buffer at the first
    gradient, which stays undefined when that step is skipped: here a buffer starts at zero, which comes to the same.
    """

    def __init__(self, groups: Groups, lr: float, momentum: float) -> None:
        super().__init__(groups, lr, momentum=momentum, fused=True)
        for group in self.param_groups if momentum else []:
            for parameter in group["params"]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # it has no use for a closure
        """One step over the parameters that have a gradient."""
        for group in self.param_groups:
            taken = [parameter for parameter in group["params"] if parameter.grad is not None]
            buffers: list[Tensor | None] = [None] * len(taken)
            if group["momentum"]:
                buffers = [own_share(self.state[parameter]["momentum_buffer"]) for parameter in taken]
            sgd(
                [own_share(parameter) for parameter in taken],
                [own_share(parameter.grad) for parameter in taken],
                buffers,
                weight_decay=group["weight_decay"],
                momentum=group["momentum"],
                lr=group["lr"],
                dampening=0.0,
                nesterov=False,
                maximize=False,
                fused=True,
                grad_scale=getattr(self, "grad_scale", None),
                found_inf=getattr(self, "found_inf", None),
            )
