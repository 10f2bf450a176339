"""What a weight is worth: the lowest scores are pruned first. w is a weight, m and v its first and second moment.

Everything is in float32 and elementwise; m and v are Adam's own, without the correction of their bias, which is the
same for all weights.
"""

from __future__ import annotations

from torch import Tensor

EPSILON = 1e-8  # as in AdamWPrune's code


def magnitude(w: Tensor) -> Tensor:
    """|w| (Zhu & Gupta, arXiv 1710.01878)."""
    return w.abs()


def movement(w: Tensor, start: Tensor) -> Tensor:
    """w (w - w0): negative for a weight that moved towards zero from its first value `start`."""
    return w * (w - start)


def hybrid(w: Tensor, m: Tensor, v: Tensor) -> Tensor:
    """|w m| |w| / (sqrt(v) + eps): AdamWPrune's bitter0."""
    return (w * m).abs() * w.abs() / (v.sqrt() + EPSILON)


def gradient(w: Tensor, m: Tensor, v: Tensor) -> Tensor:
    """|w| sqrt(|m| + eps): AdamWPrune's bitter3."""
    return w.abs() * (m.abs() + EPSILON).sqrt()


def variance(w: Tensor, m: Tensor, v: Tensor) -> Tensor:
    """|w| (v + eps)^(1/4): AdamWPrune's bitter7."""
    return w.abs() * (v + EPSILON).pow(0.25)


STATE = {"hybrid": hybrid, "gradient": gradient, "variance": variance}
