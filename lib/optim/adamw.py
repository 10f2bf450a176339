"""AdamW (Loshchilov & Hutter 2017): weight decay is taken from the weight, apart from the gradient."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

from lib.optim.settings import Groups, Settings, moments


def build(groups: Groups, settings: Settings) -> Optimizer:
    return torch.optim.AdamW(groups, settings.learning_rate, fused=True, **moments("adamw", settings))
