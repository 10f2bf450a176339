"""Pruning by name: the weights of linear layers and convolutions, never an embedding's, a norm's or a bias."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import Tensor, nn

from lib.names import near
from lib.prune import scores
from lib.prune.pruner import Learned, Moments, NullPruner, Pruner
from lib.prune.ramp import BadPruning
from lib.prune.settings import Settings

__all__ = ["BadPruning", "NullPruner", "Pruner", "Settings", "build", "prunable"]

PRUNINGS = ("none", "magnitude", "movement", "state")


def build(name: str, model: nn.Module, settings: Settings, *, moments: Moments) -> NullPruner:
    """The pruning `name` of `model`, which is on its device already and not wrapped; for "none" nothing happens.

    `moments` gives a parameter's first and second moment, as the optimizer's own tensors, or None while or where there
    are none.

    Raises:
        BadPruning: no such pruning, nothing to prune, or an excluded name that is no layer's.
    """
    if name not in PRUNINGS:
        raise BadPruning(f"PRUNING={name}: unknown. Use one of: {', '.join(PRUNINGS)}")
    if name == "none":
        return NullPruner()
    weights = prunable(model, settings.pruning_exclude)
    if name == "magnitude":
        return Pruner(weights, settings, score=lambda _, w: scores.magnitude(w), moments=moments)
    if name == "state":
        return _state(weights, settings, moments)
    if settings.movement_kind == "learned":
        return Learned(weights, settings, moments=moments)
    start = {layer: weight.detach().clone() for layer, weight in weights.items()}
    return Pruner(
        weights,
        settings,
        score=lambda layer, w: scores.movement(w, start[layer]),
        moments=moments,
        carried={"start": start},
    )


def prunable(model: nn.Module, exclude: str = "") -> dict[str, nn.Parameter]:
    """By the layer's name, the weights of nn.Linear and nn.Conv2d that no embedding shares, each once.

    `exclude` holds patterns of names, separated by commas.

    Raises:
        BadPruning: one of them fits no layer, or nothing is left.
    """
    embedded = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Embedding | nn.EmbeddingBag)}
    found: dict[str, nn.Parameter] = {}
    for name, layer in model.named_modules():
        own = (
            isinstance(layer, nn.Linear | nn.Conv2d) and id(layer.weight) not in embedded and layer.weight.requires_grad
        )
        if own and all(layer.weight is not other for other in found.values()):
            found[name] = layer.weight
    patterns = [pattern.strip() for pattern in exclude.split(",") if pattern.strip()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in found):
            hint = near(pattern, found) or f". Layers: {', '.join(found)}"
            raise BadPruning(f"PRUNING_EXCLUDE={exclude}: {pattern} fits no layer{hint}")
    left = {name: w for name, w in found.items() if not any(fnmatchcase(name, pattern) for pattern in patterns)}
    if not left:
        raise BadPruning(f"{type(model).__name__} has no linear layer or convolution left to prune. Use PRUNING=none")
    return left


def _state(weights: dict[str, nn.Parameter], settings: Settings, moments: Moments) -> Pruner:
    formula = scores.STATE[settings.state_score]

    def score(layer: str, w: Tensor) -> Tensor:
        """By weight alone while the optimizer has no moments."""
        own = moments(weights[layer])
        return scores.magnitude(w) if own is None else formula(w, *own)

    return Pruner(weights, settings, score=score, moments=moments)
