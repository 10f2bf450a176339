"""The numbers of a run: what a logged value becomes before it is written, and the few formulas that everyone shares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Scalar = float | int | bool | str | None

PERPLEXITY_CAP = 20.0  # exp(20) = 485 million: beyond it a curve says nothing


def perplexity(loss: float) -> float:
    """exp(min(loss, 20)) of a mean cross-entropy in nats; the cap keeps early points finite."""
    return math.exp(min(loss, PERPLEXITY_CAP))


def normalize(values: Mapping[str, Any]) -> dict[str, Scalar]:
    """Plain Python scalars for `values`, nested mappings flattened: what every tracker is sent.

    Numbers that JSON lacks (inf, nan) pass: the journal has its own form for them.
    """
    return {name: scalar(value) for name, value in flat(values).items()}


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` by name, those of a mapping within as `a/b`."""
    leaves: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            leaves.update({f"{name}/{inner}": leaf for inner, leaf in flat(value).items()})
        else:
            leaves[str(name)] = value
    return leaves


def scalar(value: Any) -> Scalar:
    """A number for a tensor or numpy value of one element, through `.item()`; for what is no scalar, its text."""
    if value is None or type(value) in (float, int, bool, str):
        return value  # type: ignore[no-any-return]
    item = getattr(value, "item", None)
    if callable(item):
        try:
            value = item()
        except (ValueError, RuntimeError, TypeError):  # more than one element: no scalar
            return str(value)
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    return str(value)
