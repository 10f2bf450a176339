"""Optimizers: the same trajectory as torch's own, with weight decay on matrices alone, and really applied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lib import optim
from lib.errors import Refused

SETTINGS = optim.Settings(learning_rate=0.01, weight_decay=0.1, momentum=0.8, beta1=0.85, beta2=0.95, epsilon=1e-6)
Maker = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
BY_HAND: dict[str, Maker] = {
    "sgd": lambda groups: torch.optim.SGD(groups, 0.01, momentum=0.8, foreach=False),
    "adam": lambda groups: torch.optim.Adam(groups, 0.01, betas=(0.85, 0.95), eps=1e-6, foreach=False),
    "adamw": lambda groups: torch.optim.AdamW(groups, 0.01, betas=(0.85, 0.95), eps=1e-6, foreach=False),
}


class Tied(nn.Module):
    """An embedding (8, 4) that is the output layer too, a convolution (4, 4, 1) and a norm: dimensions 2, 3 and 1."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(8, 4)
        self.convolution = nn.Conv1d(4, 4, 1)
        self.norm = nn.LayerNorm(4)
        self.output = nn.Linear(4, 8)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, T, 8)."""
        x = self.embedding(tokens)  # (B, T) -> (B, T, 4)
        x = self.convolution(x.mT).mT
        logits: Tensor = self.output(self.norm(x))  # -> (B, T, 8)
        return logits


def trajectory(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    for _ in range(100):
        tokens = torch.randint(8, (4, 6), generator=random)
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(1, 1).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_hundred_steps_are_those_of_torch(name: str) -> None:
    ours, theirs = Tied(), Tied()
    decayed = [theirs.embedding.weight, theirs.convolution.weight]
    plain = [theirs.convolution.bias, theirs.norm.weight, theirs.norm.bias, theirs.output.bias]
    by_hand = BY_HAND[name]([{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}])
    reached = trajectory(ours, optim.build(name, ours, SETTINGS))
    for our, their in zip(reached, trajectory(theirs, by_hand), strict=True):
        torch.testing.assert_close(our, their, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_shrinks_matrices_and_nothing_else(name: str) -> None:
    model = Tied()
    optimizer = optim.build(name, model, SETTINGS)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for key, value in model.named_parameters():
        shrunk = before[key] * (1 - 0.01 * 0.1) if value.dim() >= 2 else before[key]
        torch.testing.assert_close(value.detach(), shrunk, rtol=1e-6, atol=0)
    assert not torch.equal(model.embedding.weight, before["embedding.weight"])


def test_tied_weights_are_stepped_once_and_frozen_ones_never() -> None:
    model = Tied()
    model.norm.weight.requires_grad = False
    groups = optim.build("adamw", model, SETTINGS).param_groups
    inside = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(inside) == len(set(inside)) == 5
    assert id(model.norm.weight) not in inside


def test_the_fused_kernel_is_taken_on_the_cpu() -> None:
    for name in optim.OPTIMIZERS:
        assert all(group["fused"] for group in optim.build(name, Tied(), SETTINGS).param_groups)


def test_an_unknown_optimizer_is_answered_with_the_known_ones() -> None:
    with pytest.raises(Refused, match=r"OPTIMIZER=adamw2: unknown\. Use one of: sgd, adam, adamw"):
        optim.build("adamw2", Tied(), SETTINGS)


def test_a_setting_that_is_needed_and_unset_is_named() -> None:
    bare = optim.Settings(learning_rate=0.1, weight_decay=0.0)
    with pytest.raises(Refused, match="OPTIMIZER=sgd: MOMENTUM is unset"):
        optim.build("sgd", Tied(), bare)
    with pytest.raises(Refused, match="BETA1 and BETA2 and EPSILON"):
        optim.build("adam", Tied(), bare)
