"""The verbs that fill in a configuration: every switch at its default, on or off, or all by chance."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lib.kconf import dotconfig, layers
from lib.kconf.making import finish, folder, load, resolved
from lib.kconf.tree import Tree
from lib.kconf.verbs import overrides, own
from lib.options import Assignment, Faults


class Question(NamedTuple):
    """What `fill` asks: a value for a switch, or which member of a choice is on."""

    name: str
    answers: list[str]  # y and n, or the members' symbols
    is_choice: bool


def alldefconfig(root: Path, assignments: Sequence[Assignment]) -> int:
    """Every default, under what KCONFIG_ALLCONFIG and the command line say."""
    return _preset(root, assignments, "alldefconfig", lambda symbol: None)


def allnoconfig(root: Path, assignments: Sequence[Assignment]) -> int:
    """Every switch off that can be off."""
    return _preset(root, assignments, "allnoconfig", off)


def allyesconfig(root: Path, assignments: Sequence[Assignment]) -> int:
    """Every switch on that can be on."""
    return _preset(root, assignments, "allyesconfig", on)


def randconfig(root: Path, assignments: Sequence[Assignment]) -> int:
    """Every switch and choice by chance; the same KCONFIG_SEED gives the same configuration."""
    text = own(assignments, "KCONFIG_SEED") or str(int.from_bytes(os.urandom(4)))
    if not re.fullmatch(r"[0-9]{1,100}", text):  # Python itself refuses to read thousands of digits
        raise Faults([f"KCONFIG_SEED={layers.quoted(text)}: expected a whole number, such as 7"])
    return _preset(root, assignments, f"randconfig KCONFIG_SEED={int(text)}", by_chance(int(text)))


def on(question: Question) -> str | None:
    return None if question.is_choice else "y"


def off(question: Question) -> str | None:
    return None if question.is_choice else "n"


def by_chance(seed: int) -> Callable[[Question], str | None]:
    """Numbers and strings keep their defaults, as with the kernel's conf, so that the result can be trained."""
    chance = random.Random(seed)
    return lambda question: chance.choice(question.answers)


def fill(
    tree: Tree, fixed: Mapping[str, Assignment], pick: Callable[[Question], str | None], *, origin: str
) -> list[Assignment]:
    """Values for the switches and choices that are not fixed; a value may make others visible, which are asked too."""
    made: dict[str, Assignment] = {}
    asked: set[Any] = {tree.symbols[name].choice or name for name in fixed}
    while True:
        layers.put(tree, {**made, **fixed})
        subject, question = next(_open_questions(tree, asked), (None, None))
        if question is None:
            return list(made.values())
        asked.add(subject)
        if answer := pick(question):
            name, value = (answer, "y") if question.is_choice else (question.name, answer)
            made[name] = Assignment(name, value, origin)


def _open_questions(tree: Tree, asked: set[Any]) -> Iterator[tuple[Any, Question]]:
    """Each with what it is about: a symbol's name, or a choice, which is an object of kconfiglib's."""
    for name, symbol in tree.symbols.items():
        if not symbol.visibility or not tree.prompts[name] or tree.kind(name) != "bool":
            continue
        if symbol.choice and symbol.choice not in asked:
            members = [member.name for member in symbol.choice.syms if member.visibility]
            yield symbol.choice, Question(name, members, is_choice=True)
        elif not symbol.choice and name not in asked:
            yield name, Question(name, ["n", "y"], is_choice=False)


def _preset(root: Path, assignments: Sequence[Assignment], what: str, pick: Callable[[Question], str | None]) -> int:
    """The symbols that nobody set get the values that `pick` has for them."""
    tree = Tree(root)
    place = folder(root, assignments)
    loaded = load(tree, _allconfig(root, place, what.partition("config")[0], assignments))
    above = [*loaded.layers, *layers.layered(overrides(assignments))]
    filled = fill(tree, layers.settle(tree, above).taken, pick, origin=what)
    below = dotconfig.NOTHING._replace(assignments=filled, sources=dotconfig.Sources(None, loaded.read))
    return finish(tree, place, resolved(tree, below, above, loaded.wrong), what)


def _allconfig(root: Path, place: Path, kind: str, assignments: Iterable[Assignment]) -> str:
    """The file that KCONFIG_ALLCONFIG names; 1 stands for allno.config and its kin, or all.config, as in the kernel."""
    given = [assignment.value for assignment in assignments if assignment.name == "KCONFIG_ALLCONFIG"]
    if given not in ([""], ["1"]):
        return given[0] if given else ""
    wanted = [f"{'all' if kind == 'rand' else ''}{kind.replace('rand', 'random')}.config", "all.config"]
    found = [path for folder in (place, root) for name in wanted if (path := folder / name).is_file()]
    if not found:
        raise Faults([f"KCONFIG_ALLCONFIG={given[0]}: neither {' nor '.join(wanted)} is in {place}. Name a file"])
    return str(found[0])
