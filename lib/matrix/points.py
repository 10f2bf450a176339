"""From axes to cells: every combination goes through the front end before anything starts, and has an id of its own.

A combination that can't be is left out: an axis whose symbol is not there (the sparsity of no pruning) is not varied,
and a value that another one rules out (state pruning without its optimizer) not taken. What would never be taken is
a fault. Axes that decide nothing but themselves (seeds, learning rates) need the front end once per value, not once
per combination, so that ten thousand cells take about a second.
"""

from __future__ import annotations

import itertools
from collections import ChainMap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lib.kconf import dotconfig, layers, making
from lib.kconf.tree import Tree
from lib.matrix.axes import Axes, Rule
from lib.names import near
from lib.options import Assignment, Faults, Resolved, Value, sha256_of

ORIGIN = "matrix"
OWN = "MATRIX_"  # symbols of the matrix itself: no part of what a cell is
NAMES = ("TRACKER_PROJECT", "TRACKER_RUN_NAME", "TRACKER_GROUP", "WANDB_PROJECT")
ALWAYS = ("MODEL", "OPTIMIZER", "PRUNING", "TARGET_SPARSITY", "SEED")  # told of each cell, whether varied or not
WORK = (
    *("DATASET", "NUM_EPOCHS", "MAX_ITERS", "MAX_TIME_S", "BATCH_SIZE", "GRADIENT_ACCUMULATION", "EVAL_INTERVAL"),
    *("EVAL_SAMPLES", "DEVICE", "PRECISION", "COMPILE", "GPUS", "THREADS", "MODEL"),
)  # with the model's own symbols: how long training takes
DIGITS = 12  # of an id, in hex
MANY = 1 << 40  # combinations of one seed


@dataclass(frozen=True)
class Cell:
    """One combination: a run that is to be trained once."""

    id: str
    name: str  # of the run, which says what it is
    axes: dict[str, str]  # symbol -> value, as the front end writes it
    work: str  # the same for cells that should take the same time
    gpus: int  # GPUS, DEVICE and THREADS
    device: str
    threads: int

    @property
    def model(self) -> str:
        return self.axes["MODEL"]


class Kind(NamedTuple):
    """Configurations that differ only in values on which nothing else depends."""

    values: dict[str, Value]
    identity: Digest
    work: Digest


class Product(NamedTuple):
    cells: list[Cell]
    excluded: int
    equal: int  # combinations that are what another one is
    notes: list[str]


class Front:
    """The front end over the tree in `root`: a base configuration and, on top of it, what a cell is."""

    def __init__(self, root: Path, base: Path | None, overrides: Sequence[Assignment] = ()) -> None:
        self.tree = Tree(root)
        below = dotconfig.read(self.tree, base) if base else dotconfig.NOTHING
        self._below = below._replace(assignments=[line for line in below.assignments if not line.name.startswith(OWN)])
        self._overrides = [typed for typed in overrides if not typed.name.startswith(OWN)]
        nodes = self.tree.kconf.node_iter()
        self._used = {item.name for node in nodes for item in node.referenced if item is not node.item}

    def resolved(self, values: Mapping[str, str]) -> Resolved:
        """The configuration with these values, which stay in the tree. Raises Faults."""
        asked = [Assignment(name, text, ORIGIN) for name, text in values.items()]
        return making.resolved(self.tree, self._below, layers.layered([*self._overrides, *asked]))

    def product(self, axes: Axes, excluded: Sequence[Rule], spare: Collection[str] = ()) -> Product:
        """The cells, all combinations of one seed before those of the next.

        A value that no combination can take is a fault; of the axes in `spare`, which nobody typed, it is a note.
        Raises Faults: all that is wrong.
        """
        self._check(axes)
        walk = _Walk(self, axes, spare)
        named = {symbol for rule in excluded for symbol in rule.terms}
        cells: dict[str, tuple[int, Cell]] = {}
        equal = left_out = 0
        for kind, changed, order in walk.points():
            values = ChainMap(changed, kind.values)
            if any(rule.holds(_texts(values, named)) for rule in excluded):
                left_out += 1
                continue
            cell = _cell(kind, values, changed, axes)
            equal += cell.id in cells
            cells.setdefault(cell.id, (order, cell))
        walk.finish()
        ordered = [cell for _, cell in sorted(cells.values(), key=lambda found: found[0])]
        return Product(ordered, left_out, equal, list(walk.notes))

    def decides(self, name: str) -> bool:
        """Whether other symbols depend on this one."""
        return name in self._used or name in self.tree.named_choices or self.tree.symbols[name].choice is not None

    def takes(self, name: str, text: str) -> bool:
        """Whether the symbol can be set to this as the tree is now."""
        members = self.tree.named_choices.get(name)
        symbol = members[text] if members else self.tree.symbols[name]
        return bool(symbol.visibility)

    def typed(self, name: str, text: str) -> Value:
        """The value of a symbol on which no other depends. Raises ValueError where the tree forbids it now."""
        if reason := self.tree.out_of_range(name, text):
            raise ValueError(reason)
        self.tree.symbols[name].set_value(text)
        return self.tree.value(name)

    def _check(self, axes: Axes) -> None:
        """What is wrong with a value by itself."""
        faults = []
        for name, texts in axes.items():
            members = self.tree.named_choices.get(name, {})
            if name not in self.tree.symbols or name.startswith(OWN):
                faults.append(f"{ORIGIN}: {name}: no symbol to vary{near(name, self.tree.symbols)}")
            elif not members and not self.tree.prompts[name]:
                faults.append(f"{ORIGIN}: {name}: derived (no prompt), cannot be varied")
            elif members:
                faults += [
                    f"{ORIGIN}: {name}={text}: unknown value{near(text, members)} (known: {', '.join(members)})"
                    for text in texts
                    if text not in members
                ]
            else:
                wrong = {text: self.tree.fault(name, text) for text in texts}
                faults += [f"{ORIGIN}: {name}={text}: {reason}" for text, reason in wrong.items() if reason]
        if faults:
            raise Faults(faults)


class _Walk:
    """One way through all combinations."""

    def __init__(self, front: Front, axes: Axes, spare: Collection[str]) -> None:
        self._front, self._spare = front, spare
        ordered = [name for name in front.tree.symbols if name in axes and front.decides(name)]
        self._deciding = {name: axes[name] for name in ordered}  # what others depend on stands before them in Kconfig
        self._single = {name: texts for name, texts in axes.items() if name not in self._deciding}
        self._never = {(name, text) for name, texts in axes.items() for text in texts}
        self._lost: dict[tuple[str, str], dict[str, str]] = {}  # what was not taken, and one combination where
        self._faults: dict[str, None] = {}
        self.notes: dict[str, None] = {}

    def points(self) -> Iterator[tuple[Kind, dict[str, Value], int]]:
        """The configurations, each as a kind and what differs in it, and its place in the order."""
        count = 0
        for made, point in self._grown({}, list(self._deciding.items())):
            self.notes.update(dict.fromkeys(made.notes))
            singles = self._values(point)
            kind = Kind(made.values, identity(made.values), work(made.values))
            for chosen in itertools.product(*singles.values()):
                changed = {name: value for name, (_, value) in zip(singles, chosen, strict=True)}
                seed = next((place for name, (place, _) in zip(singles, chosen, strict=True) if name == "SEED"), 0)
                count += 1
                yield kind, changed, seed * MANY + count

    def finish(self) -> None:
        """Raises Faults: what the front end refused, and what no combination could take."""
        for name, text in sorted(self._never):
            told = self.notes if name in self._spare else self._faults
            try:
                self._front.resolved({**self._lost.get((name, text), {}), name: text})
            except Faults as faults:
                told.update(dict.fromkeys(faults.lines))
            else:
                told[f"{ORIGIN}: {name}={text}: no combination can take it"] = None
        if self._faults:
            raise Faults(list(self._faults))

    def _grown(
        self, point: dict[str, str], rest: list[tuple[str, tuple[str, ...]]]
    ) -> Iterator[tuple[Resolved, dict[str, str]]]:
        """The configurations of `point` with each value of the axes that are left."""
        try:
            made = self._front.resolved(point)
        except Faults as faults:
            self._faults.update(dict.fromkeys(faults.lines))
            self._never -= set(point.items())  # it was asked for, and has its fault
            return
        if not rest:
            yield made, point
            return
        (name, texts), *rest = rest
        taken = [text for text in texts if self._front.takes(name, text)]
        self._mark(name, texts, taken, point)
        for chosen in [{name: text} for text in taken] or [{}]:
            yield from self._grown({**point, **chosen}, rest)

    def _values(self, point: dict[str, str]) -> dict[str, list[tuple[int, Value]]]:
        """Position and value of what each of the other axes takes; the tree is at `point`."""
        found: dict[str, list[tuple[int, Value]]] = {}
        for name, texts in self._single.items():
            taken = [text for text in texts if self._front.takes(name, text)]
            self._mark(name, texts, taken, point)
            for position, text in enumerate(taken):
                try:
                    found.setdefault(name, []).append((position, self._front.typed(name, text)))
                except ValueError as reason:
                    self._faults[f"{ORIGIN}: {name}={text}: {reason}"] = None
        return found

    def _mark(self, name: str, texts: Sequence[str], taken: Sequence[str], point: dict[str, str]) -> None:
        self._never -= {(name, text) for text in taken}
        for text in texts:
            if text not in taken:
                self._lost.setdefault((name, text), point)


class Digest:
    """A hash of some values of a configuration, quick for many that differ in few of them."""

    def __init__(self, values: Mapping[str, Value], names: Iterable[str]) -> None:
        self._names = {name: place for place, name in enumerate(sorted(names))}
        self._lines = [_line(name, values[name]) for name in self._names]

    def of(self, changed: Mapping[str, Value]) -> str:
        """With these values in place of the ones that it was made with."""
        lines = self._lines.copy()
        for name, value in changed.items():
            if name in self._names:
                lines[self._names[name]] = _line(name, value)
        return sha256_of("\n".join(lines).encode(errors="surrogateescape"))[:DIGITS]


def identity(values: Mapping[str, Value]) -> Digest:
    """What stands for a configuration: every value, numbers as Python writes them, but no names."""
    return Digest(values, [name for name in values if name not in NAMES and not name.startswith(OWN)])


def work(values: Mapping[str, Value]) -> Digest:
    """What decides how long training takes, as far as the configuration does."""
    own = f"{values['MODEL']}_".upper()
    return Digest(values, [name for name in values if name in WORK or name.startswith(own)])


def _line(name: str, value: Value) -> str:
    return f"{name}={value!r}"


def run_name(values: Mapping[str, Value], identity: str) -> str:
    """`lenet5_adamw_magnitude0.9_s0-1f0c5d3a9b7e`: it says nothing that the configuration does not."""
    pruned = "" if values["PRUNING"] == "none" else f"_{values['PRUNING']}{values['TARGET_SPARSITY']!r}"
    return f"{values['MODEL']}_{values['OPTIMIZER']}{pruned}_s{values['SEED']}-{identity}"


def shown(value: Value) -> str:
    """As it is typed, and read again as the same."""
    if isinstance(value, bool):
        return "y" if value else "n"
    return repr(value) if isinstance(value, float) else str(value)


def _texts(values: Mapping[str, Value], names: Iterable[str]) -> dict[str, str]:
    return {name: shown(values[name]) for name in names if name in values}


def _cell(kind: Kind, values: Mapping[str, Value], changed: Mapping[str, Value], axes: Axes) -> Cell:
    mine = kind.identity.of(changed)
    told = dict.fromkeys((*ALWAYS, *axes))
    return Cell(
        id=mine,
        name=run_name(values, mine),
        axes=_texts(values, told),
        work=kind.work.of(changed),
        gpus=int(values["GPUS"]),
        device=str(values["DEVICE"]),
        threads=int(values["THREADS"]),
    )
