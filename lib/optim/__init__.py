"""Optimizers by name, with weight decay where it belongs: on matrices and convolutions, not on biases and norms.

All of them keep torch's convention for a step that is to be skipped without the host knowing: with
`optimizer.found_inf` a tensor of 1.0 on the device, `step()` changes neither a weight nor a moment nor a count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.optim import Optimizer

from lib.optim import adam, adamw, adamwadv, adamwprune, adamwspam, sgd
from lib.optim.settings import BadOptimizer, Groups, Settings

__all__ = ["OPTIMIZERS", "BadOptimizer", "Moments", "Settings", "build", "moments"]

Moments = Callable[[Tensor], tuple[Tensor, Tensor] | None]

OPTIMIZERS: Mapping[str, Callable[[Groups, Settings], Optimizer]] = {
    "sgd": sgd.build,
    "adam": adam.build,
    "adamw": adamw.build,
    "adamwadv": adamwadv.build,
    "adamwspam": adamwspam.build,
    "adamwprune": adamwprune.build,
}


def build(name: str, model: nn.Module, settings: Settings) -> Optimizer:
    """The optimizer `name` over the parameters of `model`, which is on its device, and sharded, already.

    Two groups: the first holds the parameters with two dimensions or more and decays, the second holds the others and
    does not. A tensor that is shared (tied embeddings) is in there once.

    Raises:
        BadOptimizer: no such optimizer, or one of its settings is None.
    """
    if name not in OPTIMIZERS:
        raise BadOptimizer(f"OPTIMIZER={name}: unknown. Use one of: {', '.join(OPTIMIZERS)}")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]  # a tied one comes once
    groups: Groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[name](groups, settings)


def moments(optimizer: Optimizer) -> Moments:
    """A function from a parameter to its first and second moment, in its shape; None where it has none (yet).

    They are the optimizer's own: who writes to them changes its next step.
    """

    def of(parameter: Tensor) -> tuple[Tensor, Tensor] | None:
        state = optimizer.state.get(parameter, {})
        return (state["exp_avg"], state["exp_avg_sq"]) if "exp_avg" in state else None

    return of
