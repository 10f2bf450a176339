"""What an optimizer is told, and what it refuses to go without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lib.errors import Refused

Groups = list[dict[str, Any]]  # torch's parameter groups: parameters and numbers


class BadOptimizer(Refused, ValueError):
    """An optimizer that is not here, or that lacks a setting."""


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters, under their symbols' names in lower case; None where the chosen optimizer has no such thing."""

    learning_rate: float
    weight_decay: float
    momentum: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    epsilon: float | None = None
    adamwprune_base: str | None = None
    spam_theta: float | None = None
    spam_interval: int | None = None
    spam_warmup: int | None = None
    spam_guard: int | None = None


def needed(name: str, **values: float | None) -> dict[str, float]:
    """The values, by name. Raises BadOptimizer where one of them is None."""
    missing = [key.upper() for key, value in values.items() if value is None]
    if missing:
        raise BadOptimizer(f"OPTIMIZER={name}: {' and '.join(missing)} is unset. Give a value")
    return {key: value for key, value in values.items() if value is not None}


def moments(name: str, settings: Settings) -> dict[str, Any]:
    """What every Adam takes."""
    need = needed(name, beta1=settings.beta1, beta2=settings.beta2, epsilon=settings.epsilon)
    return {"betas": (need["beta1"], need["beta2"]), "eps": need["epsilon"]}
