"""What the loop needs to know of a model and its data, of a pruner, and of who watches the GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor, nn


class Task(Protocol):
    """A model and its data."""

    model: nn.Module
    unit: str  # what throughput counts: "images" or "tokens"
    batch_size: int  # samples in one batch of one process
    units_per_batch: int  # of one batch of one process
    batches_per_epoch: int  # of one process

    @property
    def flops_per_unit(self) -> float:
        """Of training: forward and backward."""

    def batches(self, first: int) -> Iterator[Any]:
        """This process's batches for ever, from its batch number `first` on; the same ones each time."""

    def loss(self, batch: Any) -> Tensor:
        """Mean loss of `batch`, 0-dimensional."""

    def evaluate(self) -> dict[str, float]:
        """`val_loss` and its kin over the fixed held-out batches, the same on every process."""


class Pruner(Protocol):
    """Which weights are zero, and from when on; see `lib.prune`."""

    @property
    def sparsity(self) -> float: ...

    def layers(self) -> dict[str, float]: ...

    @property
    def logged(self) -> Mapping[str, float]: ...

    def start(self, steps: int) -> None: ...

    def before_step(self, lr: float, *, skip: Tensor | None = None) -> None: ...

    def zero(self, weights: dict[str, nn.Parameter]) -> None: ...

    def after_step(self, step: int) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
