"""An exponential moving average of the weights: Polyak & Juditsky (1992), as since Tarvainen & Valpola (2017)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Average:
    """The average of the weights of `model`, and of its running statistics; with decay 0 it is not there at all."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._live = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()] if decay else []
        self._mean = [tensor.clone() for tensor in self._live]

    @torch.no_grad()
    def update(self, skip: Tensor | None = None) -> None:
        """After an optimizer step; with `skip` 1.0, on the device, nothing happens."""
        if self._mean:
            share = 1 - self._decay
            shares = share if skip is None else [share * (1 - skip)] * len(self._mean)
            torch._foreach_lerp_(self._mean, self._live, shares)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside it the model has the averaged weights."""
        if not self._mean:
            yield
            return
        own = [tensor.clone() for tensor in self._live]
        self._put(self._mean)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, tensors: list[Tensor]) -> None:
        torch._foreach_copy_(self._live, tensors)

    def state_dict(self) -> dict[str, list[Tensor]]:
        return {"mean": self._mean}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        if self._mean:
            torch._foreach_copy_(self._mean, state["mean"])
