"""A .config: its header, which says where everything in it came from, and what in it the user set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from lib.kconf import layers
from lib.kconf.tree import Tree
from lib.options import Assignment, Faults

TITLE = "# Kilter configuration: the values behind config.py. Change it with `make menuconfig` or `make defconfig`."
STALE = "does not fit the Kconfig files. `make olddefconfig` drops such lines, `make menuconfig` shows them"


class Sources(NamedTuple):
    """The files and the command lines that a configuration was made from."""

    defconfig: tuple[str, str] | None = None  # path and sha256
    fragments: tuple[tuple[str, str], ...] = ()
    overrides: tuple[str, ...] = ()  # as typed: "LEARNING_RATE=0.1", "TRACKER=both", "--seed=1"

    def plus(self, overrides: Iterable[Assignment]) -> Sources:
        """With further overrides; one of the same name takes the place of an earlier one."""
        texts = [*self.overrides, *(override.text for override in overrides)]
        by_name = {text.partition("=")[0]: text for text in texts}
        return self._replace(overrides=tuple(by_name.values()))


class Below(NamedTuple):
    """What a .config contributes to the layers above it."""

    assignments: list[Assignment]  # only what the user set; the rest follows the tree's defaults
    sources: Sources
    notes: list[str]


NOTHING = Below([], Sources(), [])


def header(tree: Tree, sources: Sources, taken: Mapping[str, Assignment]) -> str:
    """The comments above the values. An origin line ends with the value, so that later edits by hand are seen."""
    lines = [TITLE]
    if sources.defconfig:
        lines.append("# defconfig: {} {}".format(*sources.defconfig))
    lines += [f"# fragment: {path} {digest}" for path, digest in sources.fragments]
    lines += [f"# override: {text}" for text in sources.overrides]
    for name in sorted(taken):
        if tree.symbols[name].visibility:
            lines.append(f"# origin: {name} {taken[name].origin}: {tree.written(name)}")
    return "\n".join(lines) + "\n\n"


def read(tree: Tree, path: Path, *, lenient: bool = False) -> Below:
    """What a .config holds. A line that does not fit the tree is a fault (raises Faults), or dropped with a note."""
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    lines, wrong = layers.read_lines(tree, text, path.name)
    lines = [line for line in lines if not _is_derived(tree, line.name)]
    notes = [fault.line for fault in wrong]
    while True:
        settled = layers.settle(tree, [lines])
        notes += [fault.line for fault in settled.faults]
        if not settled.faults:
            break
        if not lenient:
            raise Faults([*notes, f"{path.name} {STALE}"])
        refused = {fault.assignment for fault in settled.faults}
        lines = [line for line in lines if line not in refused]
    if notes and not lenient:
        raise Faults([*notes, f"{path.name} {STALE}"])
    recorded = dict(re.findall(r"^# origin: (\w+) (.*)$", text, re.MULTILINE))
    chosen = {*tree.minimal(), *recorded}
    mine = [
        line._replace(origin=_origin(tree, line, recorded)) for line in settled.taken.values() if line.name in chosen
    ]
    return Below(mine, _sources(text), [f"dropped: {note}" for note in notes])


def _origin(tree: Tree, line: Assignment, recorded: Mapping[str, str]) -> str:
    """What the header recorded, unless the value was edited by hand since then."""
    origin, value = recorded.get(line.name, ""), f": {tree.written(line.name)}"
    return origin.removesuffix(value) if origin.endswith(value) else line.origin


def _is_derived(tree: Tree, name: str) -> bool:
    """A value that follows from others, and is written for readers only."""
    return name in tree.symbols and not tree.prompts[name] and name not in tree.named_choices


def _sources(text: str) -> Sources:
    def said(word: str) -> list[str]:
        return re.findall(rf"^# {word}: (.*)$", text, re.MULTILINE)

    def files(word: str) -> tuple[tuple[str, str], ...]:
        return tuple((path, digest) for path, _, digest in (line.rpartition(" ") for line in said(word)))

    return Sources(next(iter(files("defconfig")), None), files("fragment"), tuple(said("override")))
