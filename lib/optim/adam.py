"""Adam (Kingma & Ba 2014); weight decay is added to the gradient, as L2 regularization is."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

from lib.optim.settings import Groups, Settings, moments


def build(groups: Groups, settings: Settings) -> Optimizer:
    return torch.optim.Adam(groups, settings.learning_rate, fused=True, **moments("adam", settings))
