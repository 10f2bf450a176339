"""Optimizers by name, with weight decay where it belongs: on matrices and convolutions, not on biases and norms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lib.errors import Refused

FUSED_ON = {"cpu", "cuda", "mps"}  # devices with one kernel for the whole step; on a CPU 7 times a loop's speed


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


def build(name: str, model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The optimizer `name` over the parameters of `model`, which is on its device already.

    Two groups: the first holds the parameters with two dimensions or more and decays, the second holds the others and
    does not. A tensor that is shared (tied embeddings) is in there once. "adam" adds the decay to the gradient (Kingma
    & Ba 2014, with L2), "adamw" takes it from the weight (Loshchilov & Hutter 2017), "sgd" has plain momentum.

    Raises:
        BadOptimizer: no such optimizer, or one of its settings is None.
    """
    if name not in OPTIMIZERS:
        raise BadOptimizer(f"OPTIMIZER={name}: unknown. Use one of: {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name](_groups(model, settings.weight_decay), settings, fused=_fused(model))


def _sgd(groups: list[dict[str, Any]], settings: Settings, *, fused: bool) -> torch.optim.Optimizer:
    need = _needed("sgd", momentum=settings.momentum)
    return torch.optim.SGD(groups, settings.learning_rate, momentum=need["momentum"], fused=fused)


def _adam(groups: list[dict[str, Any]], settings: Settings, *, fused: bool) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, settings.learning_rate, fused=fused, **_moments("adam", settings))


def _adamw(groups: list[dict[str, Any]], settings: Settings, *, fused: bool) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, settings.learning_rate, fused=fused, **_moments("adamw", settings))


Builder = Callable[..., torch.optim.Optimizer]
OPTIMIZERS: Mapping[str, Builder] = {"sgd": _sgd, "adam": _adam, "adamw": _adamw}


def _moments(name: str, settings: Settings) -> dict[str, Any]:
    need = _needed(name, beta1=settings.beta1, beta2=settings.beta2, epsilon=settings.epsilon)
    return {"betas": (need["beta1"], need["beta2"]), "eps": need["epsilon"]}


def _needed(name: str, **values: float | None) -> dict[str, float]:
    missing = [key.upper() for key, value in values.items() if value is None]
    if missing:
        raise BadOptimizer(f"OPTIMIZER={name}: {' and '.join(missing)} is unset. Give a value")
    return {key: value for key, value in values.items() if value is not None}


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]  # a tied one comes once
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def _fused(model: nn.Module) -> bool:
    return all(p.device.type in FUSED_ON and p.is_floating_point() for p in model.parameters())
