"""The numbers of a run: what a logged value becomes before it is written, and the few formulas that everyone shares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

PERPLEXITY_CAP = 20.0  # exp(20) = 485 million: beyond it a curve says nothing


def perplexity(loss: float) -> float:
    """exp(min(loss, 20)) of a mean cross-entropy in nats; the cap keeps early points finite."""
    return math.exp(min(loss, PERPLEXITY_CAP))


def normalize(values: Mapping[str, Any]) -> dict[str, float | int | bool | str | None]:
    """Plain Python scalars for `values`: what every tracker is sent.

    Nested mappings become `a/b`; tensors and numpy values of one element become numbers (through `.item()`); anything
    else becomes its text. Numbers that JSON lacks (inf, nan) pass: the journal has its own form for them.
    """
    plain: dict[str, float | int | bool | str | None] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            plain.update({f"{name}/{inner}": leaf for inner, leaf in normalize(value).items()})
        elif value is None or type(value) in (float, int, bool, str):
            plain[str(name)] = value
        else:
            plain[str(name)] = _scalar(value)
    return plain


def _scalar(value: Any) -> float | int | bool | str:
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
