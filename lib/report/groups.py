"""Runs that differ by their seed alone are a group; groups are compared with the baseline, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lib.report import statistics
from lib.report.outcomes import MEMORY, QUALITIES, SEED, TIME, Outcome, Quantity
from lib.report.statistics import Paired, Summary

APART = ("MODEL", SEED)  # axes that make no groups: a model has its own part of the report
FEW = 6  # groups that fit into one picture
KNOWN = ("OPTIMIZER", "PRUNING", "TARGET_SPARSITY")  # their values say enough


@dataclass(frozen=True, eq=False)
class Group:
    """Runs of one configuration, one for each seed."""

    axes: Mapping[str, str]  # those that vary within the model
    every: Mapping[str, str]  # of its axes, also those that do not
    outcomes: Sequence[Outcome]

    @property
    def label(self) -> str:
        return label(self.axes)

    @property
    def done(self) -> int:
        return sum(outcome.done for outcome in self.outcomes)

    @property
    def diverged(self) -> int:
        return sum(outcome.diverged for outcome in self.outcomes)

    def values(self, quantity: Quantity) -> list[float]:
        return known(self.outcomes, quantity)

    def by_seed(self, quantity: Quantity) -> dict[str, float]:
        return {one.seed: one.numbers[quantity.name] for one in self.outcomes if quantity.name in one.numbers}

    def summary(self, quantity: Quantity) -> Summary | None:
        return statistics.summary(self.values(quantity))

    def mean(self, quantity: Quantity) -> float | None:
        found = self.summary(quantity)
        return None if found is None else found.mean


@dataclass(frozen=True)
class Compared:
    """A group beside its baseline."""

    group: Group
    baseline: Group
    paired: Paired
    p_holm: float | None


class Part:
    """The runs of one model: their groups, in the order of the matrix, and what they are judged by."""

    def __init__(self, model: str, outcomes: Sequence[Outcome], baseline: Mapping[str, str] | None) -> None:
        self.model, self.outcomes = model, outcomes
        self.varying = varying(outcomes)
        self.quality = next((one for one in QUALITIES if any(one.name in o.numbers for o in outcomes)), QUALITIES[-1])
        members: dict[tuple[str, ...], list[Outcome]] = {}
        for outcome in outcomes:
            members.setdefault(tuple(outcome.axes.get(name, "") for name in self.varying), []).append(outcome)
        self.groups = [
            Group(
                {name: text for name, text in zip(self.varying, key, strict=True) if text},
                {name: text for name, text in of[0].axes.items() if name not in APART},
                of,
            )
            for key, of in members.items()
        ]
        self._baseline = {name: text for name, text in (baseline or {}).items() if name not in APART}

    def better(self, group: Group) -> float:
        """Sorts the best group first; those without a result last."""
        mean = group.mean(self.quality)
        return np.inf if mean is None else -mean if self.quality.higher else mean

    @property
    def is_ranked(self) -> bool:
        """One seed each ranks nobody."""
        return any(len(group.values(self.quality)) > 1 for group in self.groups)

    @cached_property
    def ranked(self) -> list[Group]:
        """The best first, or the order of the matrix."""
        return sorted(self.groups, key=self.better) if self.is_ranked else self.groups

    def baseline_of(self, group: Group) -> Group | None:
        """What the group is compared with: of those that the baseline means, the one that shares most of its axes."""
        named = [one for one in self.groups if all(one.every.get(name) == t for name, t in self._known.items())]
        if not self._known or not named:
            return None
        return max(named, key=lambda one: sum(group.axes.get(name) == text for name, text in one.axes.items()))

    @cached_property
    def compared(self) -> list[Compared]:
        """Each group that is not itself a baseline, in the order of the ranking."""
        found = []
        for group in self.ranked:
            base = self.baseline_of(group)
            if base is not None and not self.is_baseline(group):
                paired = statistics.paired(group.by_seed(self.quality), base.by_seed(self.quality))
                if paired is not None:
                    found.append((group, base, paired))
        known = [paired.p for _, _, paired in found if paired.p is not None]
        adjusted = iter(statistics.holm(known))
        return [Compared(*one, p_holm=None if one[2].p is None else next(adjusted)) for one in found]

    def is_baseline(self, group: Group) -> bool:
        return self.baseline_of(group) is group

    @cached_property
    def costs(self) -> list[Quantity]:
        """What a result costs, as far as it was measured."""
        return [one for one in (MEMORY, TIME) if any(group.values(one) for group in self.groups)]

    @cached_property
    def front(self) -> list[Group]:
        """The groups that no other beats in quality, peak memory and time at once; the best first."""
        if not self.whole:
            return []
        rows = [[self.better(group), *(group.mean(cost) or 0.0 for cost in self.costs)] for group in self.whole]
        kept = statistics.front(np.array(rows, dtype=np.float64))
        return sorted((group for group, stays in zip(self.whole, kept, strict=True) if stays), key=self.better)

    @cached_property
    def whole(self) -> list[Group]:
        """The groups of which the quality and all costs are known."""
        return [group for group in self.groups if all(group.values(one) for one in (self.quality, *self.costs))]

    @cached_property
    def facet(self) -> str:
        """The axis of which each value gets a picture; empty where all go into one."""
        return self.varying[0] if len(self.groups) > FEW and len(self.varying) > 1 else ""

    def pictures(self, groups: Sequence[Group]) -> dict[str, list[Group]]:
        """By the picture's heading the groups that are drawn in it."""
        found: dict[str, list[Group]] = {}
        for group in groups:
            found.setdefault(group.axes.get(self.facet, ""), []).append(group)
        return found

    def within(self, group: Group, *besides: str) -> str:
        """What the group is called in its picture, without the axes `besides`."""
        return label({name: text for name, text in group.axes.items() if name not in (self.facet, *besides)})

    @cached_property
    def _known(self) -> Mapping[str, str]:
        """The baseline's terms about axes; without a baseline those of the first group."""
        if self._baseline:
            axes = {name for group in self.groups for name in group.every}
            return {name: text for name, text in self._baseline.items() if name in axes}
        return dict(self.groups[0].every)


def parts(outcomes: Sequence[Outcome], baseline: Mapping[str, str] | None) -> list[Part]:
    """A part for each model."""
    models = dict.fromkeys(outcome.model for outcome in outcomes)
    return [Part(model, [one for one in outcomes if one.model == model], baseline) for model in models]


def known(outcomes: Sequence[Outcome], quantity: Quantity) -> list[float]:
    """The values of those that have one."""
    return [one.numbers[quantity.name] for one in outcomes if quantity.name in one.numbers]


def varying(outcomes: Sequence[Outcome]) -> list[str]:
    """The axes of which the runs have more than one value, in the order of the matrix."""
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.axes if name not in APART)
    return [name for name in names if len({outcome.axes.get(name) for outcome in outcomes}) > 1]


def label(axes: Mapping[str, str]) -> str:
    """`adamw · magnitude · 0.9`."""
    return " · ".join(text if name in KNOWN else f"{name}={text}" for name, text in axes.items()) or "all"
