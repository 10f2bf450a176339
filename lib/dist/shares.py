"""Weights that the processes share, each holding a part: FSDP2 (Zhao et al. 2023; torch's fully_shard), for large models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.optim import Optimizer


States = tuple[dict[str, Tensor], dict[str, Any]]  # of a model and of an optimizer


def split(model: nn.Module) -> None:
    """Give each process its part of the weights, in place: of each block by itself, then of what is left.

    Blocks are the members of ModuleLists and Sequentials that have weights: one at a time is whole during a step.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList | nn.Sequential)]
    for block in [child for parent in lists for child in parent if any(True for _ in child.parameters())]:
        fully_shard(block)
    fully_shard(model)


@contextlib.contextmanager
def alone(model: nn.Module) -> Iterator[None]:
    """Inside it gradients stay with this process."""
    shared = cast(FSDPModule, model)
    shared.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        shared.set_requires_gradient_sync(True)


def gathered(model: nn.Module, optimizer: Optimizer | None) -> States:
    """Whole state dicts on rank 0, on its CPU; the others get empty ones. The optimizer has stepped already.

    Of one that has not, torch would make the state by a step with a learning rate of 0, which counts as one.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(States, get_state_dict(model, optimizer or (), options=options))


def put(model: nn.Module, optimizer: Optimizer, weights: dict[str, Any], moments: dict[str, Any]) -> None:
    """Give each process its part of whole state dicts."""
    options = StateDictOptions(full_state_dict=True)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments, options=options)
