"""What a user sets of pruning."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Each field is the symbol of that name in lower case; a default stands for a symbol that is unset."""

    target_sparsity: float = 0.0
    pruning_warmup: int = -1
    pruning_ramp_end: int = 0
    pruning_interval: int = 1
    pruning_schedule: str = "cubic"
    pruning_scope: str = "global"
    pruning_exclude: str = ""
    movement_kind: str = "simple"
    state_score: str = "hybrid"
