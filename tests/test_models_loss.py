"""The chunked cross-entropy: the same loss and gradients as torch's own, at any chunk, in less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpt2.loss import NO_TARGET, cross_entropy
from gpt2.model import GPT2

TOKENS, WIDTH, ROWS = 50, 16, 192


def case(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (N, C), weight (V, C), targets (N,) of which some count for nothing, bias (V,)."""
    torch.manual_seed(0)
    x = torch.randn(TOKENS, WIDTH, dtype=dtype, requires_grad=True)
    weight = torch.randn(ROWS, WIDTH, dtype=dtype, requires_grad=True)
    targets = torch.randint(180, (TOKENS,))
    targets[::7] = NO_TARGET
    bias = torch.where(torch.arange(ROWS) < 180, 0.0, -1e4).to(dtype)
    return x, weight, targets, bias


def loss_and_gradients(chunk: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    x, weight, targets, bias = case(dtype)
    loss = cross_entropy(x, weight, targets, bias=bias, chunk=chunk)
    (3 * loss).backward()  # as accumulation and a GradScaler scale it
    assert x.grad is not None and weight.grad is not None
    return loss.detach(), x.grad, weight.grad


@pytest.mark.parametrize("chunk", [1, 7, 25, 49])
def test_chunks_have_the_loss_and_the_gradients_of_the_whole(chunk: int) -> None:
    for ours, whole in zip(loss_and_gradients(chunk), loss_and_gradients(0), strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-9, atol=1e-12)


def test_in_float32_they_differ_by_rounding_alone() -> None:
    for ours, whole in zip(loss_and_gradients(16, torch.float32), loss_and_gradients(0, torch.float32), strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-5, atol=1e-6)


def test_the_whole_is_torchs_own() -> None:
    x, weight, targets, bias = case()
    expected = F.cross_entropy(x @ weight.T + bias, targets, ignore_index=NO_TARGET)
    torch.testing.assert_close(cross_entropy(x, weight, targets, bias=bias), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_gradients_are_as_close_to_the_exact_ones_as_torchs(dtype: torch.dtype) -> None:
    exact = loss_and_gradients(0)
    with torch.autocast("cpu", dtype=dtype):
        whole = loss_and_gradients(0, torch.float32)
        ours = loss_and_gradients(16, torch.float32)
    for mine, torchs, right in zip(ours, whole, exact, strict=True):
        assert mine.dtype == torch.float32
        error = (mine - right).norm() / right.norm()
        assert error <= 1.5 * (torchs - right).norm() / right.norm() + 1e-6


def test_without_gradients_none_are_computed() -> None:
    x, weight, targets, bias = case()
    with torch.no_grad():
        loss = cross_entropy(x, weight, targets, bias=bias, chunk=16)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, cross_entropy(x, weight, targets, bias=bias).detach())


def test_a_model_trains_the_same_with_chunks() -> None:
    losses = []
    for chunk in (0, 24):
        torch.manual_seed(0)
        model = GPT2(layers=2, heads=4, width=32, block_size=16, vocabulary=100, loss_chunk=chunk)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        tokens = torch.randint(100, (4, 17))
        curve = []
        for _ in range(20):
            loss = model(tokens[:, :-1], tokens[:, 1:])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            curve.append(loss.item())
        losses.append(curve)
    assert losses[0][-1] < 0.5 * losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_rows_that_stand_for_no_token_are_never_likely_and_never_learn() -> None:
    torch.manual_seed(0)
    model = GPT2(layers=1, heads=2, width=16, block_size=8, vocabulary=50, loss_chunk=5)
    tokens = torch.randint(50, (2, 8))
    with torch.no_grad():
        model.tokens.weight[50:] = 30.0  # would win by far
    assert model(tokens).shape == (2, 8, 50)
    for chunk in (0, 5):
        model.loss_chunk = chunk
        model.zero_grad()
        loss = model(tokens, tokens)
        torch.testing.assert_close(loss, F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()))
        loss.backward()
        gradient = model.tokens.weight.grad
        assert gradient is not None and gradient[50:].abs().max() == 0 and gradient[:50].abs().max() > 0


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that anything computes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # torch's own
        out = func(*args, **(kwargs or {}))
        self.numbers = max(self.numbers, *(one.numel() for one in tree_leaves(out) if isinstance(one, Tensor)), 0)
        return out


@pytest.mark.parametrize(("chunk", "largest"), [(0, TOKENS * ROWS), (8, max(8, WIDTH) * ROWS)])
def test_in_chunks_the_logits_of_all_tokens_never_exist_together(chunk: int, largest: int) -> None:
    x, weight, targets, bias = case()
    with Largest() as seen:
        cross_entropy(x, weight, targets, bias=bias, chunk=chunk).backward()
    assert seen.numbers == largest


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its compiler's own
def test_chunks_can_be_compiled() -> None:
    x, weight, targets, bias = case(torch.float32)
    compiled = torch.compile(lambda *given: cross_entropy(*given, bias=bias, chunk=16))
    compiled(x, weight, targets).backward()
    expected = loss_and_gradients(16, torch.float32)
    assert x.grad is not None and weight.grad is not None
    torch.testing.assert_close(3 * x.grad, expected[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(3 * weight.grad, expected[2], rtol=1e-4, atol=1e-5)
