"""Optimizers: the same trajectory as torch's own, with weight decay on matrices alone, and really applied."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lib import optim
from lib.errors import Refused

SETTINGS = optim.Settings(
    learning_rate=0.01, weight_decay=0.1, momentum=0.8, beta1=0.85, beta2=0.95, epsilon=1e-6,
    adamwprune_base="adamw", spam_theta=5000.0, spam_interval=7, spam_warmup=3, spam_guard=2,
)  # fmt: skip
ADAM: dict[str, Any] = {"betas": (0.85, 0.95), "eps": 1e-6, "foreach": False, "fused": False}
Maker = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
BY_HAND: dict[str, Maker] = {
    "sgd": lambda groups: torch.optim.SGD(groups, 0.01, momentum=0.8, foreach=False, fused=False),
    "adam": lambda groups: torch.optim.Adam(groups, 0.01, **ADAM),
    "adamw": lambda groups: torch.optim.AdamW(groups, 0.01, **ADAM),
    "adamwadv": lambda groups: torch.optim.AdamW(groups, 0.01, amsgrad=True, **ADAM),
    "adamwprune": lambda groups: torch.optim.AdamW(groups, 0.01, **ADAM),
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


def walk(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Steps along gradients that depend on the step's number alone."""
    for step in steps:
        random = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=random)
        optimizer.step()


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("name", BY_HAND)
def test_a_thousand_steps_are_those_of_torch(name: str) -> None:
    ours, theirs = Tied(), Tied()
    decayed = [theirs.embedding.weight, theirs.convolution.weight]
    plain = [theirs.convolution.bias, theirs.norm.weight, theirs.norm.bias, theirs.output.bias]
    by_hand = BY_HAND[name]([{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}])
    walk(ours, optim.build(name, ours, SETTINGS), range(1000))
    walk(theirs, by_hand, range(1000))
    for our, their in zip(weights(ours), weights(theirs), strict=True):
        assert (our - their).norm() <= 1e-6 * their.norm()


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_a_step_that_is_skipped_changes_nothing_even_the_first(name: str) -> None:
    """By torch's own convention, so that nothing waits for the device."""
    ours, other = Tied(), Tied()
    optimizer, never_skips = optim.build(name, ours, SETTINGS), optim.build(name, other, SETTINGS)
    assert getattr(optimizer, "_step_supports_amp_scaling", False), "else the loop waits for the device"
    for step in range(20):
        if step % 5 == 0:
            before = weights(ours)
            optimizer.found_inf, optimizer.grad_scale = torch.tensor(1.0), None  # type: ignore[attr-defined]
            for parameter in ours.parameters():
                parameter.grad = torch.full_like(parameter, float("nan"))
            optimizer.step()
            assert all(torch.equal(*pair) for pair in zip(before, weights(ours), strict=True))
        optimizer.found_inf = torch.tensor(0.0)  # type: ignore[attr-defined]
        walk(ours, optimizer, range(step, step + 1))
        walk(other, never_skips, range(step, step + 1))
    assert all(torch.equal(*pair) for pair in zip(weights(other), weights(ours), strict=True))


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_a_resumed_optimizer_takes_the_very_same_steps(name: str) -> None:
    undisturbed, first = Tied(), Tied()
    walk(undisturbed, optim.build(name, undisturbed, SETTINGS), range(30))
    optimizer = optim.build(name, first, SETTINGS)
    walk(first, optimizer, range(17))
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = Tied()
    resumed.load_state_dict(saved["model"])
    goes_on = optim.build(name, resumed, SETTINGS)
    goes_on.load_state_dict(saved["optimizer"])
    walk(resumed, goes_on, range(17, 30))
    assert all(torch.equal(*pair) for pair in zip(weights(undisturbed), weights(resumed), strict=True))


def test_a_parameter_may_get_its_first_gradient_later_than_the_others() -> None:
    for name in optim.OPTIMIZERS:
        model = Tied()
        optimizer = optim.build(name, model, SETTINGS)
        walk(model, optimizer, range(3))
        late = Tied()
        optimizer = optim.build(name, late, SETTINGS)
        for step in range(3):
            random = torch.Generator().manual_seed(step)
            for parameter in late.parameters():
                gradient = torch.randn(parameter.shape, generator=random)
                parameter.grad = None if step < 2 and parameter is late.norm.bias else gradient
            optimizer.step()
        assert torch.equal(late.embedding.weight, model.embedding.weight)
        assert late.norm.bias.ne(0).all()


@pytest.mark.parametrize("name", ["sgd", "adamw", "adamwadv", "adamwspam", "adamwprune"])
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


def test_the_fused_kernel_is_taken_where_torch_has_one() -> None:
    for name in optim.OPTIMIZERS.keys() - {"adamwspam"}:
        assert all(group["fused"] for group in optim.build(name, Tied(), SETTINGS).param_groups)


def test_the_moments_of_a_parameter_are_those_of_the_optimizer_once_it_has_them() -> None:
    for name in optim.OPTIMIZERS.keys() - {"sgd"}:
        model = Tied()
        optimizer = optim.build(name, model, SETTINGS)
        moments = optim.moments(optimizer)
        assert moments(model.norm.weight) is None
        walk(model, optimizer, range(1))
        optimizer.load_state_dict(optimizer.state_dict())  # which replaces them
        found = moments(model.norm.weight)
        assert found is not None and model.norm.weight.grad is not None
        torch.testing.assert_close(found[0], 0.15 * model.norm.weight.grad)
        torch.testing.assert_close(found[1], 0.05 * model.norm.weight.grad**2)
        found[0].zero_()
        assert moments(model.norm.weight)[0].eq(0).all()  # type: ignore[index]
    model = Tied()
    optimizer = optim.build("sgd", model, SETTINGS)
    walk(model, optimizer, range(1))
    assert optim.moments(optimizer)(model.norm.weight) is None


def test_adamwprune_steps_as_its_base_does() -> None:
    for base in ("adam", "adamw", "adamwspam"):
        model, other = Tied(), Tied()
        settings = replace(SETTINGS, adamwprune_base=base)
        walk(model, optim.build("adamwprune", model, settings), range(20))
        walk(other, optim.build(base, other, settings), range(20))
        assert all(torch.equal(*pair) for pair in zip(weights(model), weights(other), strict=True))
    with pytest.raises(Refused, match=r"ADAMWPRUNE_BASE=sgd: unknown\. Use one of: adam, adamw, adamwadv, adamwspam"):
        optim.build("adamwprune", Tied(), replace(SETTINGS, adamwprune_base="sgd"))


def test_an_unknown_optimizer_is_answered_with_the_known_ones() -> None:
    with pytest.raises(Refused, match=r"OPTIMIZER=adamw2: unknown\. Use one of: sgd, adam, adamw, adamwadv, "):
        optim.build("adamw2", Tied(), SETTINGS)


def test_a_setting_that_is_needed_and_unset_is_named() -> None:
    bare = optim.Settings(learning_rate=0.1, weight_decay=0.0)
    with pytest.raises(Refused, match="OPTIMIZER=sgd: MOMENTUM is unset"):
        optim.build("sgd", Tied(), bare)
    with pytest.raises(Refused, match="BETA1 and BETA2 and EPSILON"):
        optim.build("adam", Tied(), bare)
    with pytest.raises(Refused, match="SPAM_THETA and SPAM_INTERVAL and SPAM_WARMUP and SPAM_GUARD"):
        optim.build("adamwspam", Tied(), bare)
