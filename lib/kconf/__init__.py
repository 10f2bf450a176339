"""The front end: Kconfig files, defconfigs and what people type become .config and config.py; nothing is lost silently.

Importing this costs little: kconfiglib is loaded when a tree is parsed, and a verb's module when it is asked for.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.kconf import layers, verbs
from lib.kconf.tree import Tree
from lib.kconf.verbs import VERBS, refuse_unread
from lib.options import DOTCONFIG, Assignment, Faults, Resolved, Symbol

__all__ = [
    "VERBS",
    "Assignment",
    "Faults",
    "Resolved",
    "Symbol",
    "configure",
    "defconfig",
    "model",
    "only",
    "overrides",
    "resolve",
    "symbols",
    "typed",
]


def symbols(root: Path) -> dict[str, Symbol]:
    """Every symbol of the tree, in its order."""
    tree = Tree(root)
    return {name: tree.describe(name) for name in tree.symbols}


def resolve(root: Path, *, base: Path | None, assignments: Sequence[Assignment]) -> Resolved:
    """The configuration of a .config (strictly read; None: all defaults) with the assignments on top. Raises Faults."""
    from lib.kconf import making

    return making.resolve(root, base=base, assignments=assignments)


def only(environ: Mapping[str, str], goal: str, *variables: str, symbols: bool = False) -> None:
    """Raises Faults when make's command line holds what `goal` does not read; it reads `variables`, or symbols too."""
    refuse_unread(verbs.given(environ), goal, variables=variables, symbols=symbols)


def folder(root: Path, environ: Mapping[str, str]) -> Path:
    """Where .config lies: O= of make's command line, or the root. Raises Faults when no folder can have that name."""
    from lib.kconf import making

    return making.folder(root, verbs.given(environ))


def overrides(
    root: Path,
    environ: Mapping[str, str],
    base: Path | None = None,
    *,
    below: Sequence[Assignment] = (),
    above: Sequence[Assignment] = (),
) -> list[Assignment]:
    """The symbols (and TRACKER) on make's command line, for the run that make starts; checked on top of `.config`.

    `below` and `above` them is what the target itself sets; the list begins and ends with these.

    The model comes as MODEL, also when one of the choice's members was typed. Raises Faults, so that a slip is answered
    before anything starts. A TRACKER from the environment gets its note here.
    """
    typed = verbs.overrides(verbs.given(environ))
    if typed:
        dotconfig = base or root / DOTCONFIG
        values = resolve(
            root, base=dotconfig if dotconfig.exists() else None, assignments=[*below, *typed, *above]
        ).values
        rest = [assignment for assignment in typed if assignment.name.partition("_")[0] != "MODEL"]
        chosen = [Assignment("MODEL", str(values["MODEL"]), verbs.COMMAND_LINE)] if len(rest) < len(typed) else []
        typed = [*chosen, *rest]
    for note in layers.ambient_notes(typed):
        print(f"note: {note}", file=sys.stderr)
    return [*below, *typed, *above]


def typed(environ: Mapping[str, str], name: str) -> str:
    """The variable's value from make's command line; "" when it stands only in the environment, or nowhere."""
    return environ.get(name, "") if name in environ.get("KCONF_CLI", "").split() else ""


def model(root: Path, base: Path | None = None) -> str:
    """The MODEL of the root's .config (or that of `base`), or the tree's default without one."""
    dotconfig = base or root / DOTCONFIG
    text = dotconfig.read_text(encoding="utf-8", errors="replace") if dotconfig.is_file() else ""
    found = re.search(r'^CONFIG_MODEL="(\w+)"$', text, re.MULTILINE)
    return found[1] if found else symbols(root)["MODEL"].default


def defconfig(root: Path, variables: Mapping[str, str]) -> int:
    """`make defconfig` with these variables: `defconfig(root, {"DEFCONFIG": "quickstart"})`."""
    return configure(root, {}, ["defconfig", *(f"{name}={value}" for name, value in variables.items())])


def configure(root: Path, environ: Mapping[str, str], words: Sequence[str]) -> int:
    """`scripts/configure.py VERB [NAME=value ...]`. Raises Faults."""
    return verbs.perform(root, words[0] if words else "", verbs.given(environ, words[1:]))
