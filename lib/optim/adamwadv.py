"""AdamWAdv: AdamW with AMSGrad (Reddi et al. 2018), whose steps only get smaller. GRAD_CLIP is 1 with it by default."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

from lib.optim.settings import Groups, Settings, moments


def build(groups: Groups, settings: Settings) -> Optimizer:
    return torch.optim.AdamW(groups, settings.learning_rate, amsgrad=True, fused=True, **moments("adamwadv", settings))
