"""AdamWPrune: the optimizer whose moments state-based pruning reads, with defaults of its own: no weight decay.

It steps as its base does. AMSGrad is left out, as in its origin (mcgrof/AdamWPrune): adamwadv gives its gradient clip.
"""

from __future__ import annotations

from torch.optim import Optimizer

from lib.optim import adam, adamw, adamwspam
from lib.optim.settings import BadOptimizer, Groups, Settings

BASES = {"adam": adam.build, "adamw": adamw.build, "adamwadv": adamw.build, "adamwspam": adamwspam.build}


def build(groups: Groups, settings: Settings) -> Optimizer:
    if settings.adamwprune_base not in BASES:
        raise BadOptimizer(f"ADAMWPRUNE_BASE={settings.adamwprune_base}: unknown. Use one of: {', '.join(BASES)}")
    return BASES[settings.adamwprune_base](groups, settings)
