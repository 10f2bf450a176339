"""AdamWSPAM: AdamW with SPAM, Spike-Aware Adam with Momentum Reset (Huang et al. 2025, arXiv 2501.06842).

A gradient whose square exceeds `theta` times the second moment, as it was before this step, is cut back to that size.
Every `interval` steps both moments start from zero again; the update then grows back over `warmup` steps, and nothing
is cut over the first `guard` steps. Order, epsilon and constants are those of the authors' code
(TianjinYellow/SPAM-Optimizer) but for two things:

* **The bias correction starts again at a reset, too.** Otherwise the first updates after it are far too long, since the
  correction takes the new, nearly empty moments for settled ones.
* **What has no history is not cut.** Otherwise a weight whose first gradient comes after the guard, as that of a rare
  word, stays where it is until the next reset: any square exceeds theta times nothing.

All of it is one rule for each element, written once: compiled into a single pass over memory where that pays, else run
on pieces that fit a cache. What changes from step to step is computed on the device, so that nothing waits for it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from lib.optim.settings import Groups, Settings, moments, needed
from lib.optim.shares import own_share

WORTH_COMPILING = 10_000_000  # elements on a CPU: below it, the seconds that compiling takes are not won back
PIECE = 65_536  # elements: four of them and what is in between stay in a core's cache
BUNDLE = 4  # tensors
NEVER = 1 << 24  # up to here float32 counts every step
LEAST = 0.01  # what is left of the first update after a reset


def build(groups: Groups, settings: Settings) -> Optimizer:
    need = needed(
        "adamwspam",
        spam_theta=settings.spam_theta,
        spam_interval=settings.spam_interval,
        spam_warmup=settings.spam_warmup,
        spam_guard=settings.spam_guard,
    )
    return AdamWSPAM(
        groups,
        settings.learning_rate,
        theta=need["spam_theta"],
        interval=need["spam_interval"],
        warmup=need["spam_warmup"],
        guard=need["spam_guard"],
        **moments("adamwspam", settings),
    )


class Numbers(NamedTuple):
    """One step's numbers, alike for all elements: float32, 0-dimensional, on the elements' device."""

    keep: Tensor  # times the moments: 0 at a reset, else 1
    limit: Tensor  # times the root of the second moment: what is larger is cut
    free: Tensor  # added to that: inf while nothing is cut, else 0
    mean_share: Tensor  # of the gradient in the new moment: 1 - beta, which float32 has more of than of beta
    square_share: Tensor
    eps: Tensor
    size: Tensor  # of the update: learning rate, bias corrections, warm-up, and the decay that comes after it
    decay: Tensor  # the share of the weight that goes; 1 minus it would be rounded the same way each step
    skip: Tensor | None  # bool: this step changes nothing, and the others are such that it does not


class Flat(NamedTuple):
    """What the rule reads and writes of one parameter, each (N,)."""

    weight: Tensor
    gradient: Tensor
    mean: Tensor
    square: Tensor


class AdamWSPAM(Optimizer):
    """See the module. Each group counts its `step`s on the device.

    Args:
        groups: parameter groups, with their weight decay.
        lr: learning rate.
        theta: a squared gradient over the second moment above which it is a spike; 0 never cuts.
        interval: steps from one reset to the next; 0 never resets.
        warmup: steps over which the update grows back after a reset, along half a cosine from 0.01 to 1.
        guard: steps without cutting at the start and after a reset.
        betas: decay of the first and the second moment.
        eps: added to the square root of the second moment, which is not corrected for its bias by then.
    """

    found_inf: Tensor | None = None
    _step_supports_amp_scaling = True  # torch's word for who leaves a step out by `found_inf`, without the host

    def __init__(
        self,
        groups: Groups,
        lr: float,
        *,
        theta: float,
        interval: float,
        warmup: float,
        guard: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        spam = {"theta": theta, "interval": interval, "warmup": warmup, "guard": guard}
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, **spam})
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        on_cpu = all(parameter.device.type == "cpu" for parameter in parameters)
        large = sum(own_share(parameter).numel() for parameter in parameters) >= WORTH_COMPILING
        self._advance = Compiled(on_cpu=on_cpu) if large or not on_cpu else by_pieces

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # it has no use for a closure
        """One step over the parameters that have a gradient."""
        found = self.found_inf
        if found is not None and found.device.type == "cpu":  # to look costs nothing
            if found:
                return
            found = None
        for group in self.param_groups:
            flat = [self._flat(parameter) for parameter in group["params"] if parameter.grad is not None]
            if flat:
                self._advance(flat, _numbers(group, flat[0].weight.device, found))

    def _flat(self, parameter: Tensor) -> Flat:
        """The parameter, its gradient and its moments as they lie in memory, this process's share of each: (N,)."""
        state = self.state[parameter]
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        parts = (parameter.detach(), parameter.grad, state["exp_avg"], state["exp_avg_sq"])
        own = [own_share(part) for part in parts if part is not None]  # the caller has seen to the gradient
        if not own[0].is_contiguous():  # channels_last, which has its elements in another order than its shape
            order = sorted(range(own[0].dim()), key=own[0].stride, reverse=True)
            own = [tensor.permute(order) for tensor in own]
        weight, gradient, mean, square = own
        return Flat(weight.view(-1), gradient.reshape(-1), mean.view(-1), square.view(-1))


def _numbers(group: dict[str, Any], device: torch.device, found_inf: Tensor | None) -> Numbers:
    """This step's numbers, and the step counted. Any: a group holds numbers of several kinds."""
    skip = None if found_inf is None else found_inf.to(device) > 0

    def number(value: Tensor | float) -> Tensor:  # filled on the device: there is no copy to wait for
        return value if isinstance(value, Tensor) else torch.full((), value, device=device)

    def unless_skipped(value: Tensor | float) -> Tensor:
        return number(value) if skip is None else torch.where(skip, 0.0, value)

    done = number(group.get("step", 0.0)).to(device)
    step = done + 1
    group["step"] = done + unless_skipped(1.0)
    since = step.remainder(group["interval"] or NEVER)  # as the authors count: 1, 2 …, 0 at a reset, 1 …
    again = step >= (group["interval"] or NEVER)  # there was a reset
    nth = since + again  # from 1: of the first period, of the steps since a reset
    beta1, beta2 = group["betas"]
    # expm1 and log: 1 - 0.999 in float32 would have four digits left.
    correction1 = -torch.expm1(nth * math.log(beta1)) if beta1 else number(1.0)
    correction2 = -torch.expm1(nth * math.log(beta2)) if beta2 else number(1.0)
    warm = group["warmup"] + 1
    cosine = torch.cos(nth.clamp(max=warm) * (math.pi / warm))
    grown = torch.where(again, 1 - (1 - LEAST) * (1 + cosine) / 2, 1.0)
    cuts = (since >= group["guard"]) & bool(group["theta"])
    decay = group["lr"] * group["weight_decay"]
    return Numbers(
        keep=1 - unless_skipped((since == 0).float()),
        limit=number(math.sqrt(group["theta"])),
        free=torch.where(cuts, 0.0, math.inf),
        mean_share=unless_skipped(1 - beta1),
        square_share=unless_skipped(1 - beta2),
        eps=number(group["eps"]),
        size=unless_skipped(group["lr"] * (1 - decay) * grown * correction2.sqrt() / correction1),
        decay=unless_skipped(decay),
        skip=skip,
    )


def rule(tensors: Sequence[Flat], n: Numbers) -> None:
    """One step of each element of `tensors`, in place."""
    for weight, gradient, mean, square in tensors:
        taken = gradient if n.skip is None else torch.where(n.skip, 0.0, gradient)  # it may be NaN
        old_mean, old_square = mean * n.keep, square * n.keep
        most = torch.where(old_square > 0, old_square.sqrt() * n.limit + n.free, math.inf)
        cut = taken.clamp(-most, most)
        mean.copy_(old_mean + (cut - old_mean) * n.mean_share)
        square.copy_(old_square + (cut * cut - old_square) * n.square_share)
        weight.sub_(mean * n.size / (square.sqrt() + n.eps) + weight * n.decay)


def by_pieces(tensors: Sequence[Flat], numbers: Numbers) -> None:
    """The rule on pieces that a cache holds, since each of its operations passes over all that it is given."""
    for tensor in tensors:
        for piece in zip(*(torch.split(part, PIECE) for part in tensor), strict=True):
            rule([Flat(*piece)], numbers)


class Compiled:
    """The rule as one pass over memory; by pieces, with a warning, where there is no compiler that works.

    On a CPU a few tensors at a time, of any size: each call takes 0.1 ms of Python, each tensor more compiling. An
    accelerator is given all at once, since starting a kernel from here takes longer than it runs.
    """

    def __init__(self, *, on_cpu: bool) -> None:
        self._on_cpu = on_cpu
        self._rule: Callable[[Sequence[Flat], Numbers], None] | None = torch.compile(rule, dynamic=on_cpu)

    def __call__(self, tensors: Sequence[Flat], numbers: Numbers) -> None:
        for bundle in _bundles(tensors) if self._on_cpu else [tensors]:
            if self._rule:
                try:
                    self._rule(bundle, numbers)
                    continue
                except _cannot_compile() as problem:
                    self._rule = None
                    why = str(problem).strip().partition("\n")[0]
                    warnings.warn(f"AdamWSPAM can't be compiled, its step is slower: {why}", stacklevel=2)
            by_pieces(bundle, numbers)


def _cannot_compile() -> type[Exception]:
    """What torch.compile raises. Its module takes seconds to import, so that only a failure does."""
    from torch._dynamo.exc import TorchDynamoException

    return TorchDynamoException


def _bundles(tensors: Sequence[Flat]) -> Iterator[Sequence[Flat]]:
    """`BUNDLE` at a time, what is left one by one: two lengths, so that it is compiled twice."""
    whole = len(tensors) // BUNDLE * BUNDLE
    yield from (tensors[first : first + BUNDLE] for first in range(0, whole, BUNDLE))
    yield from ([tensor] for tensor in tensors[whole:])
