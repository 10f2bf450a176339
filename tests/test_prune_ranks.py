"""Pruning by four gloo processes: the masks are the same on each, and those of one process with the whole batch."""

from __future__ import annotations

from typing import Any

import torch
from grouping import by_rank
from torch import Tensor, nn

from lib import dist, optim, prune

WORLD, STEPS, BATCH = 4, 12, 16
SETTINGS = prune.Settings(0.6, 2, 9, 3, state_score="hybrid")
Masks = dict[str, Tensor]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))


def trained(rank: int, world: int) -> tuple[prune.NullPruner, nn.Sequential]:
    """State pruning under AdamW; each process sees its share of each batch."""
    model = network()
    wrapped: nn.Module = nn.parallel.DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    pruner = prune.build("state", model, SETTINGS, moments=optim.moments(optimizer))
    pruner.start(STEPS)
    for step in range(1, STEPS + 1):
        x = torch.randn(BATCH, 12, generator=torch.Generator().manual_seed(step))
        mine = x[rank * BATCH // world : (rank + 1) * BATCH // world]  # (BATCH, 12) -> (BATCH/world, 12)
        nn.functional.cross_entropy(wrapped(mine), mine[:, :4].argmax(1)).backward()
        pruner.before_step(0.01)
        optimizer.step()
        pruner.after_step(step)
        optimizer.zero_grad()
    return pruner, model


def job() -> tuple[dict[str, Any], dict[str, Any], list[list[bool]], float]:
    pruner, model = trained(dist.rank(), WORLD)
    alike = pruner.state_dict()["masks"]
    with torch.no_grad():
        model[0].weight.add_(torch.randn(16, 12) * dist.rank())  # processes that disagree, as they never should
    apart = prune.build("magnitude", model, SETTINGS, moments=lambda _: None)
    apart.start(STEPS)
    apart.after_step(9)
    return plain(alike), plain(apart.state_dict()["masks"]), model[0].weight.ne(0).tolist(), apart.sparsity


def plain(masks: Masks) -> dict[str, Any]:
    return {name: mask.tolist() for name, mask in masks.items()}


def test_masks_are_the_same_on_four_processes_and_on_one() -> None:
    first, *others = by_rank(job, world=WORLD)
    assert all(answer == first for answer in others)
    alike, apart, in_force, sparsity = first
    assert apart["0"] == in_force
    assert sparsity == round(0.6 * 256) / 256
    pruner, _ = trained(0, 1)
    assert plain(pruner.state_dict()["masks"]) == alike
    assert 0 < sum(map(sum, alike["0"])) < 16 * 12
