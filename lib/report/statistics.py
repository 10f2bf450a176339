"""What a difference between seeds allows to say: means, intervals, paired comparisons, and who is beaten by nobody.

Pure numpy. Two configurations are compared in pairs of one seed each, because a seed (the order of the data, the first
weights) moves both the same way. From six pairs on there is a p-value; with fewer no test could find anything: with
five, the smallest that a sign-flip test knows is 2/2^5 = 0.06.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
LEAST_PAIRS = 6  # for a p-value
EXACT_PAIRS = 16  # up to which all 2^n sign flips are tried; above, FLIPS of them by chance
FLIPS = 100_000
HIGHEST_T = 1e4  # above every quantile that is asked for: 12.7 for two values
ROUNDING = 1e-9  # of their mean: differences that vary by no more are equal


@dataclass(frozen=True)
class Summary:
    """`n` values: their mean, and the standard deviation of one of them (n - 1 in the denominator)."""

    n: int
    mean: float
    std: float | None  # None for one value


@dataclass(frozen=True)
class Paired:
    """How much more the first of two has than the second, over `n` seeds that both have."""

    n: int
    mean: float
    low: float | None  # of the confidence interval of that mean, by Student's t; None for one pair
    high: float | None
    effect: float | None  # Cohen's d of paired differences: mean / standard deviation
    p: float | None  # two-sided, by sign flips; None under LEAST_PAIRS


def summary(values: Sequence[float]) -> Summary | None:
    """None without values."""
    if not values:
        return None
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Summary(len(values), float(np.mean(values)), std)


def paired(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Paired | None:
    """`ours` minus `theirs`, both by seed; None when they have no seed in common."""
    differences = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    told = summary(differences)
    if told is None:
        return None
    if told.std is None:
        return Paired(1, told.mean, None, None, None, None)
    reach = t_quantile((1 + CONFIDENCE) / 2, told.n - 1) * told.std / math.sqrt(told.n)
    effect = told.mean / told.std if told.std > ROUNDING * abs(told.mean) else None
    p = sign_flip_p(differences) if told.n >= LEAST_PAIRS else None
    return Paired(told.n, told.mean, told.mean - reach, told.mean + reach, effect, p)


def sign_flip_p(differences: Sequence[float]) -> float:
    """How often differences of this size have so large a mean when each could as well have the other sign.

    Two-sided (Fisher's randomization test for pairs). Exact up to EXACT_PAIRS, else by chance, the same at each call.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    if n <= EXACT_PAIRS:
        bits = np.arange(2**n)[:, None] >> np.arange(n) & 1  # (2^n, n)
    else:
        bits = np.random.default_rng(0).integers(0, 2, (FLIPS, n))
        bits[0] = 0  # what was seen is one of the possibilities: p is never 0
    sums = np.abs((1 - 2 * bits) @ values)
    slack = 1e-12 * float(np.abs(values).sum())  # sums of the same numbers in another order differ by their rounding
    return float(np.mean(sums >= abs(float(values.sum())) - slack))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of so many comparisons at once, adjusted (Holm 1979): one under 0.05 is one that may be believed."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def t_quantile(share: float, freedom: int) -> float:
    """The value under which a `share` (0.5 to 1) of Student's t with `freedom` degrees lies."""
    low, high = 0.0, HIGHEST_T
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, freedom) < share else (low, middle)
    return (low + high) / 2


def _t_below(t: float, freedom: int) -> float:
    """The distribution function for t >= 0, a finite sum (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, term, total = math.cos(angle), 1.0, 0.0
    odd = freedom % 2
    for k in range(odd, freedom - 1, 2):
        if k > odd:
            term *= (k - 1) / k * cosine**2
        total += term * (cosine if odd else 1.0)
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return (1 + inside) / 2


def front(costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows no other row beats: (n, k), less is better -> (n,).

    One beats another when it is nowhere higher, and lower somewhere.
    """
    no_worse = (costs[:, None, :] <= costs[None, :, :]).all(axis=2)  # (n, n): row i against row j
    better = (costs[:, None, :] < costs[None, :, :]).any(axis=2)
    return np.asarray(~(no_worse & better).any(axis=0))
