"""A run and the one that reproduces it: what differs in what they were made of, and whether their curves are the same.

Both are read from their folders, and nothing is written there. What is likeliest to change the numbers comes first.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lib.files import shown
from lib.journal import lines, secrets
from lib.journal.folder import RunFolder
from lib.options import ROOT

HANDFUL = 4  # symbols, packages or files that are named; the rest is counted
MEASURED = re.compile(r"gpu_.*|mfu|.*_per_second|.*_s")  # by a clock or a sensor: no part of a curve
OF_THE_CHECKOUT = ("TRACKER_PROJECT", "WANDB_PROJECT")  # where the .config leaves them empty; they decide no number
PLACE = "project"
NOTHING = "none"  # the value of what only the other run has

Curve = dict[tuple[int, str], lines.Value]  # by step and name


class Facts(NamedTuple):
    """What a run was made of, as far as its folder says."""

    configuration: Mapping[str, Any]
    data: str | None
    machines: Sequence[Mapping[str, Any]]  # of each attempt
    environment: Mapping[str, Any]
    changes: str  # of tracked files, as a diff


class Difference(NamedTuple):
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.what}: {self.text}"


class Comparison(NamedTuple):
    names: list[str]
    steps: int
    values: int
    wrong: list[tuple[int, str, lines.Value, lines.Value]]  # step, name, the value now and then; by step


def facts(run: RunFolder) -> Facts:
    """What the folder of `run` says; what it does not hold is empty."""
    return Facts(run.configuration.get("values", {}), run.data, run.machines, run.environment, run.changes)


def differences(then: Facts, now: Facts) -> list[Difference]:
    """What differs between two runs, the likeliest cause of other numbers first."""
    before, here = then.configuration, now.configuration
    names = [name for name in {**before, **here} if name not in OF_THE_CHECKOUT]
    return [
        *_listed("configuration", _changed(before, here, names)),
        *_unless_same("data", str(now.data)[:12], [str(then.data)[:12]]),
        *_machine(then.machines, now.machines),
        *_surroundings(then, now),
        *_listed(PLACE, _changed(before, here, OF_THE_CHECKOUT)),
    ]


def way_back(then: Facts, now: Facts, diff: str) -> str:
    """The command that brings back the code of then, whose changes are in the file `diff`; "" when it is the same."""
    commit = then.environment.get("commit")
    moved = bool(commit) and commit != now.environment["commit"]
    if not then.environment or (not moved and then.changes == now.changes):
        return ""
    words = ["git stash"] if now.changes else []
    words += [f"git checkout {commit}"] if moved else []
    words += [f"git apply {shlex.quote(diff)}"] if then.changes else []
    return " && ".join(words)


def compare(then: Iterable[lines.Line], now: Iterable[lines.Line], *, whole: bool) -> Comparison:
    """Every value of two journals but the measured ones, bit by bit.

    `whole`: a value that only one of them has differs, too. Otherwise, such as after a kill, only common ones count.
    """
    before, after = _curve(then), _curve(now)
    common = [key for key in before if key in after]
    keys = list({**before, **after}) if whole and common else common
    wrong = [
        (step, name, after.get((step, name), NOTHING), before.get((step, name), NOTHING))
        for step, name in keys
        if repr(before.get((step, name), NOTHING)) != repr(after.get((step, name), NOTHING))
    ]  # repr tells -0.0 from 0.0, takes nan for nan, and gives every bit of a float
    names = list(dict.fromkeys(name for _, name in keys))
    return Comparison(names, len({step for step, _ in keys}), len(keys), sorted(wrong, key=lambda value: value[0]))


def opening(original: RunFolder, run: RunFolder) -> list[str]:
    """What `run` says when it starts: which run it reproduces, and what differs now."""
    then, now, place = facts(original), facts(run), shown(original.path, ROOT)
    curve = _curve(lines.read(original.path))
    said = [f"again     {place}  ({original.state()}; {len(curve)} values to compare with)"]
    found = differences(then, now)
    said += [f"differs   {difference}" for difference in found]
    if not found:
        said.append("differs   nothing: configuration, data, device, packages, code, Python and host are those of then")
    if back := way_back(then, now, f"{place}/dirty.diff"):
        said.append(f"go back   {back}")
    return [secrets.scrubbed(line) for line in said]


def verdict(original: RunFolder, run: RunFolder) -> tuple[bool, list[str]]:
    """Whether the curve of `run` is the one of `original`, bit by bit, and what to say about it."""
    then, now = facts(original), facts(run)
    by_clock = bool(then.configuration.get("MAX_TIME_S"))
    state = original.state()
    found = compare(lines.read(original.path), lines.read(run.path), whole=state == "finished" and not by_clock)
    if not found.values:
        return False, [f"compared  nothing: {shown(original.path, ROOT)} ({state}) has no step in common with this run"]
    ended = "MAX_TIME_S ends a run by the clock" if by_clock else f"the original: {state}"
    scope = "" if state == "finished" and not by_clock else f" that both runs have ({ended})"
    if not found.wrong:
        return True, [f"identical {found.values} values of {', '.join(found.names)} at {found.steps} steps{scope}"]
    step, name, value, before = found.wrong[0]
    of = f"{len(found.wrong)} of {found.values} values{scope}"
    said = [f"differs   first at step {step}: {name} {value}, not {before}; {of}"]
    return False, [*said, secrets.scrubbed(f"cause     {_cause(differences(then, now))}")]


def _cause(found: Sequence[Difference]) -> str:
    """The likeliest one in full, the others by name."""
    if not (suspects := [difference for difference in found if difference.what != PLACE]):
        return "unknown: nothing that is recorded differs. On a GPU some operations add in no fixed order"
    others = ", ".join(difference.what for difference in suspects[1:])
    return f"likely {suspects[0]}" + (f"; or: {others}" if others else "")


def _curve(journal: Iterable[lines.Line]) -> Curve:
    return {
        (line.step, name): value
        for line in journal
        for name, value in line.values.items()
        if not MEASURED.fullmatch(name)
    }


def _machine(then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Device, processes, and threads where the CPU computes; a run may have gone on elsewhere than it began."""
    here = now[-1]
    if not then:
        return [Difference("device", f"{here['device']} (then not recorded, nor processes and threads)")]
    found = _unless_same("device", here["device"], [machine["device"] for machine in then])
    found += _unless_same("processes", here["processes"], [machine["processes"] for machine in then])
    if str(here["device"]).startswith("cpu"):
        threads = _unless_same("threads", here["threads"], [machine["threads"] for machine in then])
        found += [item._replace(text=f"{item.text}; OMP_NUM_THREADS sets them") for item in threads]
    return found


def _surroundings(then: Facts, now: Facts) -> list[Difference]:
    before, here = then.environment, now.environment
    if not before:
        return [Difference("environment", "not recorded then: packages, commit, Python, host")]
    there, packages = before.get("packages", {}), here["packages"]
    names = sorted({**there, **packages}, key=lambda name: (name != "torch", name.lower()))
    found = _listed("packages", _changed(there, packages, names, joint=" ")) + _code(then, now)
    for what in ("python", "host"):
        found += _unless_same(what, here[what], [before.get(what)])
    return found


def _code(then: Facts, now: Facts) -> list[Difference]:
    """The commit, and what differs from it. What untracked files hold is not recorded, only their names are."""
    both = (now, then)
    commit, before = (str(one.environment.get("commit") or NOTHING)[:12] for one in both)
    found = _unless_same("commit", commit, [before])
    if then.changes != now.changes:
        here, there = ("some" if one.changes else NOTHING for one in both)
        found.append(Difference("uncommitted changes", "others" if here == there else f"{here} (then {there})"))
    new, old = (set(one.environment.get("untracked", ())) for one in both)
    said = [f"{name} is {'new' if name in new else 'gone'}" for name in sorted(new ^ old)]
    return found + _listed("untracked files", said)


def _unless_same(what: str, now: object, then: Iterable[object]) -> list[Difference]:
    known = list(dict.fromkeys(then))
    return [] if known == [now] else [Difference(what, f"{now} (then {' and '.join(map(str, known))})")]


def _changed(then: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str], *, joint: str = "=") -> list[str]:
    """`SEED=1 (then 0)` for each of `names` whose values differ."""
    return [
        f"{name}{joint}{now.get(name, NOTHING)} (then {then.get(name, NOTHING)})"
        for name in names
        if then.get(name) != now.get(name)
    ]


def _listed(what: str, changed: Sequence[str]) -> list[Difference]:
    """A handful by name, and how many there are."""
    rest = f" and {more} more" if (more := len(changed) - HANDFUL) > 0 else ""
    return [Difference(what, ", ".join(changed[:HANDFUL]) + rest)] if changed else []
