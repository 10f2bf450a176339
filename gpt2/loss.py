"""Cross-entropy over a large vocabulary, a chunk of tokens at a time, so that the logits of all never exist together.

With 50,304 rows and 12 x 1024 tokens the logits alone would take 1.2 GB in bfloat16, and 2.5 GB more in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

NO_TARGET = -100  # a target that counts for nothing (torch's own ignore_index)


def cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, *, bias: Tensor | None = None, chunk: int = 0) -> Tensor:
    """Mean cross-entropy () in nats of the logits `x` (N, C) times `weight` (V, C) plus `bias` (V,), at `targets` (N,).

    A target of -100 counts for nothing. `chunk` tokens are looked at together; 0: all, by torch's own function. `bias`
    gets no gradient.
    """
    if not 0 < chunk < len(targets):
        return F.cross_entropy(F.linear(x, weight, bias), targets, ignore_index=NO_TARGET)
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    total: Tensor = _Chunked.apply(x, weight, targets, bias, chunk, learns)  # type: ignore[no-untyped-call]
    return total / (targets != NO_TARGET).sum()


class _Chunked(torch.autograd.Function):
    """The summed loss; its gradients are taken on the way, while a chunk's logits are there (Hsu et al. 2024, Liger).

    A checkpoint around each chunk would save the same memory and compute the logits twice.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, chunk: int, learns: bool
    ) -> Tensor:
        """() of x (N, C), weight (V, C), targets (N,), bias (V,); without gradients unless it `learns`."""
        grad_x = torch.empty_like(x) if learns else None
        grad_weight = torch.zeros_like(weight) if learns else None
        exact = torch.promote_types(x.dtype, torch.float32)
        total = x.new_zeros((), dtype=exact)
        for start in range(0, len(targets), chunk):
            part, right = x[start : start + chunk], targets[start : start + chunk]  # (n, C), (n,)
            logits = F.linear(part, weight, bias)  # (n, C) -> (n, V), in autocast's type
            log_chances = logits.to(exact).log_softmax(-1)
            total = total + F.nll_loss(log_chances, right, ignore_index=NO_TARGET, reduction="sum")
            if grad_x is not None and grad_weight is not None:
                counts = right != NO_TARGET
                error = log_chances.exp_().mul_(counts[:, None])  # softmax minus what should be: d loss / d logits
                error.scatter_add_(1, right.clamp(min=0)[:, None], -counts[:, None].to(exact))
                error = error.to(logits.dtype)
                grad_x[start : start + chunk] = error @ weight.to(error.dtype)  # (n, V) -> (n, C)
                grad_weight += error.mT @ part.to(error.dtype)  # -> (V, C), summed in the weights' own type
        if grad_x is not None and grad_weight is not None:
            ctx.save_for_backward(grad_x, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients that `forward` took, times that of what the loss went into."""
        grad_x, grad_weight = ctx.saved_tensors
        (grad,) = grads
        return grad_x * grad, grad_weight * grad, None, None, None, None
