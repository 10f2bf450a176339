"""The report's part about the configurations: which symbols differ, what they follow, and what all have in common."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lib.report import markup
from lib.report.groups import varying
from lib.report.markup import UNKNOWN, Table
from lib.report.outcomes import SEED, Outcome

NAMES = ("TRACKER_PROJECT", "TRACKER_RUN_NAME", "TRACKER_GROUP", SEED)  # differ from run to run, and say nothing of it
MOST_VALUES = 8  # of a symbol that are listed


def configuration(outcomes: Sequence[Outcome], most: int) -> str:
    """The symbols whose values differ: which axis they follow, or how often each value is there."""
    models = len({one.model for one in outcomes}) > 1
    axes = [*(["MODEL"] if models else []), *varying(outcomes)]
    known = [one for one in outcomes if one.values]
    silent = {*NAMES, *axes, *_possibilities(one.values for one in known)}
    names = [name for name in dict.fromkeys(name for one in known for name in one.values) if name not in silent]
    odd = [name for name in names if len({_value(one, name) for one in known}) > 1]
    told = markup.note(f"Axes: {', '.join([*axes, SEED])}. {'' if odd else 'Beside them no symbol differs.'}")
    if odd:
        rows = [[name, *_follows(name, axes, known)] for name in odd]
        told += markup.table(Table(["Symbol", "Follows", "Values"], rows, 3), most)
    places = Table(["", "Values"], _surroundings(outcomes), 2)
    same = [[name, markup.wide(_value(known[0], name))] for name in names if name not in odd]
    told += markup.folded("Where they ran", markup.table(places, most))
    common = markup.table(Table(["Symbol", "Value"], same, 2), len(same))
    return told + markup.folded(f"What all have in common: {len(same)} symbols", common)


def _possibilities(configurations: Iterable[Mapping[str, Any]]) -> set[str]:
    """Those of choices, whose value says it already: OPTIMIZER_ADAMW of OPTIMIZER."""
    found = set()
    for values in configurations:
        for name, value in values.items():
            if isinstance(value, str):
                member = re.sub(r"\W", "_", f"{name}_{value}").upper()
                if values.get(member) is True:
                    found.add(member)
    return found


def _follows(name: str, axes: Sequence[str], known: Sequence[Outcome]) -> list[str]:
    """The axis that decides the symbol's value, and which value goes with what; else how many runs have each."""
    by_axis = {axis: _decided(name, axis, known) for axis in axes}
    decided = {axis: found for axis, found in by_axis.items() if all(len(of) == 1 for of in found.values())}
    if decided:
        axis, found = min(decided.items(), key=lambda one: len(one[1]))
        where: dict[str, list[str]] = {}
        for at, of in found.items():
            where.setdefault(next(iter(of)), []).append(at or UNKNOWN)
        told = [f"{value} ({', '.join(places)})" for value, places in where.items()]
    else:
        axis, told = "", _counts(_value(one, name) for one in known)
    return [axis, markup.wide(_listed(told))]


def _decided(name: str, axis: str, known: Sequence[Outcome]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for one in known:
        found.setdefault(one.axes.get(axis, ""), set()).add(_value(one, name))
    return found


def _value(outcome: Outcome, name: str) -> str:
    """As it is typed. What is unset is off; a number or a text that is unset is not there."""
    value = outcome.values.get(name)
    if value is None or isinstance(value, bool):
        return "y" if value else UNKNOWN
    return str(value) if value != "" else '""'


def _surroundings(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """What the machines and the code were, with the number of runs where they were not all the same."""
    names = dict.fromkeys(name for one in outcomes for name in one.environment)
    return [
        [name, markup.wide(_listed(_counts(one.environment[name] for one in outcomes if name in one.environment)))]
        for name in names
    ]


def _counts(values: Iterable[str]) -> list[str]:
    found = Counter(values)
    return list(found) if len(found) == 1 else [f"{value} ({count} runs)" for value, count in found.most_common()]


def _listed(told: Sequence[str]) -> str:
    more = f"; {len(told) - MOST_VALUES} more" if len(told) > MOST_VALUES else ""
    return "; ".join(told[:MOST_VALUES]) + more
