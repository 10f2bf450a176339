"""Why a symbol has its value, and what would have to change for it to have another one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import kconfiglib

from lib.kconf.tree import Tree
from lib.options import Resolved, flag


def symbol(tree: Tree, made: Resolved, name: str) -> list[str]:
    """The paragraph of `make showconfig SYM=name`, of the values that are in the tree now."""
    told = tree.describe(name)
    is_set = name in made.values
    kind = (
        f"{told.type} in {told.bounds}"
        if told.bounds
        else f"one of {', '.join(told.values)}"
        if told.values
        else told.type
    )
    rows = {
        "prompt": told.prompt or "none: its value follows from others",
        "type": kind,
        "origin": _origin(tree, made, name) if is_set else f"unset: needs {tree.needs_text(name)}",
        "depends on": depends(tree, name) or "nothing",
        "to set it": way(tree, name, str(made.values["MODEL"])),
        "defined at": told.place,
    }
    head = f"{name}={text_of(made, name)}" if is_set else f"{name} is unset"
    return [head, *(f"  {label:<12}{text}" for label, text in rows.items())]


def text_of(made: Resolved, name: str) -> str:
    """The value that a run sees, as it would be typed."""
    value = made.values[name]
    return ("n", "y")[value] if isinstance(value, bool) else str(value)


def _origin(tree: Tree, made: Resolved, name: str) -> str:
    """Where the value was asked for; of a default, which of them applies."""
    if made.origins[name] != "default":
        return made.origins[name]
    for value, condition in tree.symbols[name].orig_defaults:
        if kconfiglib.expr_value(condition):
            reason = "" if condition is tree.kconf.y else f" if {kconfiglib.expr_str(condition)}"
            return f"default {kconfiglib.expr_str(value)}{reason}"
    return "default"


def depends(tree: Tree, name: str) -> str:
    """`ENABLE_WANDB (now ENABLE_WANDB=y)`; "" when it depends on nothing."""
    operands = tree.depends(name)
    now = tree.now_text(operands)
    return tree.expression(operands) + (f" (now {now})" if now else "")


def way(tree: Tree, name: str, model: str) -> str:
    """A command line that sets the symbol, with all that has to be set before; tried out."""
    if not tree.prompts[name] and name not in tree.named_choices:
        return "its value follows from others and can't be set"
    steps: dict[str, str] = {}
    with tree.trial():
        if not _opened(tree, name, steps):
            return f"its needs have to hold first: {tree.needs_text(name)}"
    words = [_typed(tree, other, value) for other, value in steps.items()]
    words.append(_typed(tree, name, "y" if tree.kind(name) == "bool" else "…"))
    shown, _, value = words[-1].partition("=")
    as_flag = "" if steps or shown == "MODEL" else f"; {flag(shown, model)}={value} of {model}/train.py"
    return f"make setconfig {' '.join(words)}{as_flag}"


def _opened(tree: Tree, name: str, steps: dict[str, str]) -> bool:
    """Sets what the symbol needs, the deepest first, and notes it in `steps`; False when that does not do."""
    for operand in tree.needs(name):
        for other, value in _steps(tree, operand):
            _opened(tree, other, steps)
            tree.symbols[other].set_value(value)
            steps[other] = value
    return not tree.needs(name)


def _steps(tree: Tree, operand: Any, *, wanted: bool = True) -> Iterator[tuple[str, str]]:
    """Values that make the operand true, or false, as far as that is plain; of alternatives the first."""
    if not isinstance(operand, tuple):
        if operand.name in tree.symbols:
            other = None if wanted else _instead_of(operand)
            yield (other, "y") if other else (operand.name, "y" if wanted else "n")
    elif operand[0] == kconfiglib.NOT:
        yield from _steps(tree, operand[1], wanted=not wanted)
    elif operand[0] in (kconfiglib.AND, kconfiglib.OR):
        both = (operand[0] == kconfiglib.AND) == wanted
        for part in operand[1:] if both else operand[1:2]:
            yield from _steps(tree, part, wanted=wanted)
    elif operand[0] == kconfiglib.EQUAL and wanted and operand[1].name in tree.symbols:
        yield operand[1].name, operand[2].str_value
    elif operand[0] == kconfiglib.UNEQUAL and wanted and operand[1].name in tree.symbols and not operand[2].str_value:
        yield operand[1].name, "…"  # any text


def _instead_of(symbol: Any) -> str | None:
    """Another member of the choice that `symbol` is in: that one is left by choosing another."""
    others = symbol.choice.syms if symbol.choice else []
    return next((other.name for other in others if other is not symbol and other.visibility), None)


def _typed(tree: Tree, name: str, value: str) -> str:
    """`OPTIMIZER=sgd` for a member of a choice that has a name."""
    named = tree.choice_names.get(tree.symbols[name].choice, "")
    members = tree.named_choices.get(named, {})
    return next((f"{named}={short}" for short, member in members.items() if member.name == name), f"{name}={value}")
