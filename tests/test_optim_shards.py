"""Optimizers over two processes that share the parameters, as FSDP does: the same steps as one that has them all."""

from __future__ import annotations

import torch
import torch.distributed as group
from grouping import by_rank
from test_optim import SETTINGS
from torch import nn

from lib import optim

STEPS, SKIPPED = 6, 3


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))


def trained(model: nn.Module, name: str) -> nn.Module:
    """By the same batches on each process, so that the mean of the gradients is the gradient."""
    optimizer = optim.build(name, model, SETTINGS)
    for step in range(STEPS):
        batch = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        model(batch).square().mean().backward()
        optimizer.found_inf = torch.tensor(float(step == SKIPPED))  # type: ignore[attr-defined]
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.zero_grad()
    return model


def distances() -> dict[str, float]:
    """By optimizer, how far the weights that both processes share end up from those of one that has them all."""
    from torch.distributed.fsdp import fully_shard

    mesh = group.init_device_mesh("cpu", (2,))
    found = {}
    for name in optim.OPTIMIZERS:
        model = network()
        fully_shard(model, mesh=mesh)
        whole = [weight.full_tensor() for weight in trained(model, name).parameters()]  # type: ignore[attr-defined]
        alone = list(trained(network(), name).parameters())
        found[name] = max(float((one - other).abs().max()) for one, other in zip(whole, alone, strict=True))
    return found


def test_two_processes_that_share_the_parameters_take_the_steps_of_one() -> None:
    apart, _ = by_rank(distances, world=2)
    assert apart.keys() == optim.OPTIMIZERS.keys()
    assert max(apart.values()) <= 1e-7
