"""Weights that become zero while training goes on: masks, kept in force by the loop's calls around each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as group
from torch import Tensor, nn

from lib.prune.ramp import BadPruning, Ramp, ramp
from lib.prune.settings import Settings
from lib.prune.threshold import cuts, kept

Moments = Callable[[Tensor], tuple[Tensor, Tensor] | None]  # a parameter's two moments, where it has some by now
Score = Callable[[str, Tensor], Tensor]  # by the layer's name and its weight; of the weight's shape
PER_LAYER = dict[str, Tensor]


class NullPruner:
    """Nothing is pruned."""

    def start(self, steps: int) -> None:
        pass

    def before_step(self, lr: float, *, skip: Tensor | None = None) -> None:
        pass

    def after_step(self, step: int) -> None:
        pass

    def zero(self, weights: Mapping[str, Tensor]) -> None:
        pass

    @property
    def sparsity(self) -> float:
        return 0.0

    def layers(self) -> dict[str, float]:
        return {}

    @property
    def logged(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class Pruner(NullPruner):
    """The weights with the lowest scores become zero, more of them at each update, and stay zero.

    Only the gradient is masked at each step: with weight and moments at zero the optimizer leaves zero where it is.
    Where it hides its moments (momentum of sgd), the weights are masked after each step, too.

    Masks are the same on all processes: these hold equal weights, so that their masks agree, and rank 0's are sent to
    the others all the same, since GPUs of two kinds may round differently.
    """

    stays = True  # what is pruned never comes back

    def __init__(
        self,
        weights: dict[str, nn.Parameter],
        settings: Settings,
        *,
        score: Score,
        moments: Moments,
        carried: dict[str, PER_LAYER] | None = None,
    ) -> None:
        self.weights, self.settings, self.score, self.moments = weights, settings, score, moments
        self.carried = carried or {}  # what the score needs over a checkpoint
        self.masks: PER_LAYER = {}  # int8, 1 where a weight is kept; a quarter of a float's memory, faster than bool
        self.gone = 0  # pruned weights
        self.threshold = math.nan
        self.total = sum(weight.numel() for weight in weights.values())
        self.ramp: Ramp | None = None

    def start(self, steps: int) -> None:
        """Before the first step of this process: how many steps the whole run has, those before a checkpoint too.

        Raises:
            BadPruning: the ramp does not fit into the run.
        """
        own = self.settings
        self.ramp = ramp(
            own.target_sparsity, own.pruning_schedule, warmup=own.pruning_warmup, end=own.pruning_ramp_end, steps=steps
        )

    @torch.no_grad()
    def before_step(self, lr: float, *, skip: Tensor | None = None) -> None:
        """Between the gradients of a step, clipped, and the optimizer's step with `lr`.

        `skip` is the optimizer's `found_inf`: 1.0 on the device for gradients that are not to be used.
        """
        for name, mask in self.masks.items():
            if (grad := self.weights[name].grad) is not None:
                grad.mul_(mask)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """After the optimizer's `step` (from 1): prune where it is time to."""
        pruned = self._due(step) and self._prune(self._ramp().sparsity(step))
        for name, mask in self.masks.items():
            weight = self.weights[name]
            moments = self.moments(weight)
            if pruned or moments is None:
                weight.mul_(mask)
            if pruned and moments is not None:
                for moment in moments:
                    moment.mul_(mask)

    @torch.no_grad()
    def zero(self, weights: Mapping[str, Tensor]) -> None:
        """Zero in `weights`, by parameter name, what is pruned here: for averages of the weights over time."""
        for name, mask in self.masks.items():
            weights[f"{name}.weight"].mul_(mask)

    @property
    def sparsity(self) -> float:
        """Share of zeros among all prunable weights, known without asking the device."""
        return self.gone / self.total

    def layers(self) -> dict[str, float]:
        """The same per layer, by the layer's name. Waits for the device."""
        if not self.masks:
            return dict.fromkeys(self.weights, 0.0)
        left = torch.stack([mask.sum() for mask in self.masks.values()]).tolist()
        return {name: 1 - ones / self.masks[name].numel() for name, ones in zip(self.masks, left, strict=True)}

    @property
    def logged(self) -> dict[str, float]:
        """What to log beside the sparsity: the highest score that was pruned, when all layers share one."""
        return {} if math.isnan(self.threshold) else {"pruning_threshold": self.threshold}

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers; masks are bool, true where a weight is kept."""
        masks = {name: mask.bool() for name, mask in self.masks.items()}
        return {"masks": masks, "carried": self.carried, "gone": self.gone, "threshold": self.threshold}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; the weights and the optimizer come back by themselves.

        Raises:
            BadPruning: it was made with another pruning or for another network.
        """
        tables: dict[str, PER_LAYER] = state.get("carried", {})
        shapes = {name: weight.shape for name, weight in self.weights.items()}
        filled = [table for table in (state.get("masks", {}), *tables.values()) if table]
        fits = "masks" in state and tables.keys() == self.carried.keys()
        if not fits or any(_shapes(table) != shapes for table in filled):
            raise BadPruning("the checkpoint was pruned in another way or is of another network. Start anew: RESUME=n")
        masks = state["masks"].items()
        self.masks = {name: mask.to(self.weights[name].device, torch.int8) for name, mask in masks}
        for kind, table in self.carried.items():
            for name, own in table.items():
                own.copy_(tables[kind][name])
        self.gone, self.threshold = state["gone"], state["threshold"]

    def _ramp(self) -> Ramp:
        assert self.ramp is not None, "the loop calls start() before the first step"
        return self.ramp

    def _due(self, step: int) -> bool:
        plan = self._ramp()
        if step <= plan.begin or (self.stays and step > plan.end):
            return False
        return step % self.settings.pruning_interval == 0 or step == plan.end

    def _prune(self, sparsity: float) -> bool:
        """Choose the masks; False when there is nothing to choose."""
        together = self.settings.pruning_scope == "global"
        groups = [list(self.weights)] if together else [[name] for name in self.weights]
        numbers = [round(sparsity * sum(self.weights[name].numel() for name in names)) for names in groups]
        if not sum(numbers) or (self.stays and sum(numbers) == self.gone):
            return False
        some = [(names, number) for names, number in zip(groups, numbers, strict=True) if number]
        ranked = [[self._ranked(name) for name in names] for names, _ in some]
        masks = {name: torch.ones_like(weight, dtype=torch.int8) for name, weight in self.weights.items()}
        found = cuts(ranked, [number for _, number in some])
        for (names, _), scores, cut in zip(some, ranked, found, strict=True):
            masks.update(zip(names, (mask.to(torch.int8) for mask in kept(scores, cut)), strict=True))
        if group.is_initialized():
            for mask in masks.values():
                group.broadcast(mask, src=0)
        self.masks, self.gone = masks, sum(numbers)
        self.threshold = found[0].score if together else math.nan
        return True

    def _ranked(self, name: str) -> Tensor:
        """The layer's scores, without -0.0; the lowest of all where a weight is gone for good."""
        score = self.score(name, self.weights[name].detach()).float() + 0.0
        if self.stays and name in self.masks:
            return torch.where(self.masks[name].bool(), score, -math.inf)
        return score


class Learned(Pruner):
    """Movement pruning with scores that gradient descent learns (Sanh et al., arXiv 2005.07683, section 3).

    The network computes with W' = W M, M the mask of the highest scores S. With the straight-through estimator
    dL/dS = dL/dW' W and dL/dW = dL/dW' M, so S sums up -lr dL/dW' W, also of weights that are masked: these keep their
    value and come back when others fall behind. A rate of its own would scale all scores alike and change no mask.

    Between two steps the parameters are W', for the network, validation and checkpoints; what the mask hides is kept
    aside. During the optimizer's step they are W.
    """

    stays = False

    def __init__(self, weights: dict[str, nn.Parameter], settings: Settings, *, moments: Moments) -> None:
        self.whole = False  # whether the parameters are W; a step that is left out has no `before_step`
        scores, hidden = ({name: torch.zeros_like(w) for name, w in weights.items()} for _ in range(2))
        super().__init__(
            weights,
            settings,
            score=lambda name, _: scores[name],
            moments=moments,
            carried={"scores": scores, "hidden": hidden},
        )

    @torch.no_grad()
    def before_step(self, lr: float, *, skip: Tensor | None = None) -> None:
        for name, weight in self.weights.items():
            if self.masks:
                weight.add_(self.carried["hidden"][name])
            if (grad := weight.grad) is None:
                continue
            usable = grad.nan_to_num(0.0, 0.0, 0.0)  # one nan would stay in the scores
            if skip is not None:
                usable.mul_(skip == 0)
            self.carried["scores"][name].addcmul_(usable, weight, value=-lr)
            if self.masks:
                grad.mul_(self.masks[name])
        self.whole = True

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        if not self.whole:
            return
        self.whole = False
        if self._due(step):
            self._prune(self._ramp().sparsity(step))
        for name, mask in self.masks.items():
            weight, hidden = self.weights[name], self.carried["hidden"][name]
            hidden.copy_(weight).mul_(1 - mask)
            weight.sub_(hidden)


def _shapes(table: PER_LAYER) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in table.items()}
