"""The verbs that only look: what is ready, what is new, what differs, and why a symbol has the value that it has."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from lib import names
from lib.files import shown
from lib.journal import folder as runs
from lib.kconf import defconfigs, dotconfig, explain, layers, making
from lib.kconf.tree import Tree
from lib.kconf.verbs import overrides, own
from lib.options import DOTCONFIG, Assignment, Faults, Resolved

_LINE = re.compile(r"^(?:CONFIG_(\w+)=(.*)|# CONFIG_(\w+) is not set)$", re.MULTILINE)


def list_defconfigs(root: Path, _: Sequence[Assignment]) -> int:
    """Prints the name, the path and the content of each."""
    ready = defconfigs.listing(root)
    width = max((len(item.name) for item in ready), default=0)
    folders = max((len(shown(item.path.parent, root)) for item in ready), default=0)
    for item in ready:
        print(f"{item.name:{width}}  {shown(item.path.parent, root):{folders}}  {item.summary}")
    return 0


def listnewconfig(root: Path, assignments: Sequence[Assignment]) -> int:
    """Prints the symbols that .config does not have yet, with their defaults."""
    return _new(root, assignments, helped=False)


def helpnewconfig(root: Path, assignments: Sequence[Assignment]) -> int:
    """The same, with the help of each."""
    return _new(root, assignments, helped=True)


def _new(root: Path, assignments: Sequence[Assignment], *, helped: bool) -> int:
    tree = Tree(root)
    place = making.folder(root, assignments)
    layers.settle(tree, [making.old(tree, place).assignments])
    for name in dotconfig.new_symbols(tree, place / DOTCONFIG):
        print(f"CONFIG_{name}={tree.written(name)}")
        if helped:
            told = tree.describe(name)
            print("\n".join(f"    {line}" for line in (told.prompt, *told.help.splitlines(), "")))
    return 0


def diffconfig(root: Path, assignments: Sequence[Assignment]) -> int:
    """Prints what B= has other than A=, as the kernel's diffconfig does; without them .config.old and .config.

    Each is a .config, a folder with one (such as a run's), a run, or what DEFCONFIG= takes.
    """
    place = making.folder(root, assignments)
    before, after = (
        _lines(root, own(assignments, name) or str(place / default), name)
        for name, default in (("A", f"{DOTCONFIG}.old"), ("B", DOTCONFIG))
    )
    for name in sorted({*before, *after}):
        if name not in after:
            print(f"-{name} {before[name]}")
        elif name not in before:
            print(f"+{name} {after[name]}")
        elif before[name] != after[name]:
            print(f" {name} {before[name]} -> {after[name]}")
    return 0


def _lines(root: Path, text: str, asked_as: str) -> dict[str, str]:
    """Symbol by symbol what a configuration holds; a defconfig stands for all that follows from it."""
    try:
        path = _dotconfig(root, text, asked_as)
        content = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError as error:
        raise Faults([f"{asked_as}={layers.quoted(text)}: cannot be read: {error.strerror}"]) from None
    if content.startswith(dotconfig.TITLE):
        return {on or off: value or "n" for on, value, off in _LINE.findall(content)}
    if path.name.startswith(DOTCONFIG) and not path.exists():
        raise Faults([f"no {shown(path, root)} to compare. {asked_as}= takes a .config, a run or a defconfig"])
    tree = Tree(root)
    made = making.loaded(tree, text)
    return {name: tree.written(name) for name in made.values}


def _dotconfig(root: Path, text: str, asked_as: str) -> Path:
    """The .config in the folder or the run of this name; else the path itself."""
    path = root / text
    if (path / DOTCONFIG).is_file():
        return path / DOTCONFIG
    projects = [root / "runs", *root.glob("runs/*")]
    if not path.is_file() and any((project / text / DOTCONFIG).is_file() for project in projects):
        return runs.find(root / "runs", text, asked_as=asked_as).path / DOTCONFIG
    return path


def showconfig(root: Path, assignments: Sequence[Assignment]) -> int:
    """Prints value, type, origin and dependencies of SYM=, and what would set it; without SYM= a line for every symbol.

    Of .config (all defaults without one), of RUN=, or of either with the command line's symbols on top.
    """
    tree = Tree(root)
    base = making.folder(root, assignments) / DOTCONFIG
    if run := own(assignments, "RUN"):
        if place := own(assignments, "O"):
            raise Faults([f"O={place} with RUN={run}: each has a configuration of its own. Leave one of them out"])
        base = runs.find(root / "runs", run).path / DOTCONFIG
        if not base.exists():
            raise Faults([f"RUN={run}: no {DOTCONFIG} there, so its configuration is lost"])
    made = making.resolve_in(tree, base if base.exists() else None, overrides(assignments))
    wanted = [name.strip().upper().removeprefix("CONFIG_") for name in own(assignments, "SYM").split(",") if name]
    faults = [
        f"SYM={name}: unknown symbol{names.near(name, tree.symbols)}" for name in wanted if name not in tree.symbols
    ]
    if faults:
        raise Faults(faults)
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr)
    print("\n\n".join("\n".join(explain.symbol(tree, made, name)) for name in wanted) or _table(tree, made))
    return 0


def _table(tree: Tree, made: Resolved) -> str:
    """A line for each that can be set; a choice that has a name stands for its members."""
    shown = [name for name in made.values if name in tree.named_choices or tree.prompts[name]]
    shown = [name for name in shown if tree.symbols[name].choice not in tree.choice_names]
    rows = [(f"{name}={explain.text_of(made, name)}", made.origins[name]) for name in shown]
    width = min(48, max(len(row) for row, _ in rows))
    return "\n".join(f"{row:{width}}  {origin}" for row, origin in rows)
