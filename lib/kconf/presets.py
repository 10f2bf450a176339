"""Configurations that nobody typed: every switch on or off, or all by chance."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lib.kconf import layers
from lib.kconf.tree import Tree
from lib.options import Assignment


class Question(NamedTuple):
    """What `fill` asks: a value for a switch, or which member of a choice is on."""

    name: str
    answers: list[str]  # y and n, or the members' symbols
    is_choice: bool


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


def _open_questions(tree: Tree, asked: set[Any]) -> Any:
    for name, symbol in tree.symbols.items():
        if not symbol.visibility or not tree.prompts[name] or tree.kind(name) != "bool":
            continue
        if symbol.choice and symbol.choice not in asked:
            members = [member.name for member in symbol.choice.syms if member.visibility]
            yield symbol.choice, Question(name, members, is_choice=True)
        elif not symbol.choice and name not in asked:
            yield name, Question(name, ["n", "y"], is_choice=False)
