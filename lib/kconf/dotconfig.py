"""A .config: its header, which says where everything in it came from, and what in it the user set."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from lib.files import shown
from lib.kconf import layers
from lib.kconf.tree import Tree
from lib.options import Assignment, Faults, digest_of

TITLE = "# Kilter configuration: the values behind config.py. Change it with `make menuconfig` or `make defconfig`."
STALE = "does not fit the Kconfig files. `make olddefconfig{}` drops such lines, `make menuconfig{}` shows them"


class Sources(NamedTuple):
    """The files and the command lines that a configuration was made from."""

    defconfig: tuple[str, str] | None = None  # path and sha256
    fragments: tuple[tuple[str, str], ...] = ()
    overrides: tuple[str, ...] = ()  # as typed: "LEARNING_RATE=0.1", "TRACKER=both", "--seed=1"
    kconfig: str = ""  # sha256 of the Kconfig files

    def plus(self, overrides: Iterable[Assignment]) -> Self:
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
    lines.append(f"# kconfig: {sources.kconfig}")
    lines += [f"# override: {text}" for text in sources.overrides]
    for name in sorted(taken):
        if tree.symbols[name].visibility:
            lines.append(f"# origin: {name} {taken[name].origin}: {tree.written(name)}")
    return "\n".join(lines) + "\n\n"


def read(tree: Tree, path: Path, *, lenient: bool = False) -> Below:
    """What a .config holds. A line that does not fit the tree is a fault (raises Faults), or dropped with a note."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise Faults([f"{path}: cannot be read: {error.strerror}"]) from None
    where = shown(path, tree.root)
    lines, wrong = layers.read_lines(tree, text, where)
    lines = [line for line in lines if not _is_derived(tree, line.name)]
    notes: list[str] = []
    if lenient:
        lines, notes = _last_of_each(lines)
    while (settled := layers.settle(tree, [lines], wrong)).faults:
        notes += [fault.line for fault in settled.faults]
        if not lenient:
            raise Faults([*notes, f"{where} {_advice(tree.root, path)}"])
        refused = {fault.assignment.origin for fault in settled.faults}
        lines, wrong = [line for line in lines if line.origin not in refused], []
    recorded = dict(_said(text, r"origin: (\w+)"))
    chosen = {*tree.minimal(), *recorded}
    mine = [
        line._replace(origin=_origin(tree, line, recorded)) for line in settled.taken.values() if line.name in chosen
    ]
    return Below(mine, _sources(text), [f"dropped: {note}" for note in notes])


def _last_of_each(lines: Sequence[Assignment]) -> tuple[list[Assignment], list[str]]:
    """Of a symbol that stands there twice the last line counts: people append to a .config."""
    last = {line.name: line for line in lines}
    notes = [f"{line.said}: {last[line.name].said} stands below it" for line in lines if last[line.name] != line]
    return list(last.values()), notes


def _advice(root: Path, path: Path) -> str:
    if _of_run(path):
        return "does not fit the Kconfig files as they are now"
    place = "" if path.parent == root else f" O={shown(path.parent, root)}"
    return STALE.format(place, place)


def _of_run(path: Path) -> bool:
    """Whether it belongs to a run, which nobody brings up to date."""
    return (path.parent / "config.json").exists()


def stale(tree: Tree, path: Path, sources: Sources) -> list[str]:
    """The note that what the .config was made from has changed since; none when it has not, or does not say."""
    files = [sources.defconfig, *sources.fragments] if sources.defconfig else [*sources.fragments]
    changed = [name for name, digest in files if not _has_digest(tree.root, (name,), digest)]
    what = "+".join(name for name, _ in files)
    steps = [f"make defconfig DEFCONFIG={what} loads it anew"] if changed else []
    if sources.kconfig and not _has_digest(tree.root, tree.kconf.kconfig_filenames, sources.kconfig):
        changed.insert(0, "the Kconfig files")
        steps.insert(0, "make olddefconfig brings it up to date")
    if not changed:
        return []
    todo = "" if _of_run(path) else f": {', '.join(steps)}"
    return [f"{' and '.join(changed)} changed since {shown(path, tree.root)} was made, which keeps its values{todo}"]


def _has_digest(root: Path, names: Sequence[str], digest: str) -> bool:
    try:  # a hand-edited header may name anything, also a device that never ends
        return all((root / name).is_file() for name in names) and digest_of(root, names) == digest
    except OSError:
        return False


def new_symbols(tree: Tree, path: Path) -> list[str]:
    """What can be set, as the tree's values are now, and has no line in the .config; a choice counts as a whole."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    named = set(re.findall(r"^(?:# )?CONFIG_(\w+)(?:=| is not set)", text, re.MULTILINE))
    known = named | {name for name, symbol in tree.symbols.items()
                     if symbol.choice and any(member.name in named for member in symbol.choice.syms)}  # fmt: skip
    return [name for name, symbol in tree.symbols.items()
            if symbol.visibility and tree.prompts[name] and name not in known]  # fmt: skip


def _origin(tree: Tree, line: Assignment, recorded: Mapping[str, str]) -> str:
    """What the header recorded, unless the value was edited by hand since then."""
    origin, value = recorded.get(line.name, ""), f": {tree.written(line.name)}"
    return origin.removesuffix(value) if origin.endswith(value) else line.origin


def _is_derived(tree: Tree, name: str) -> bool:
    """A value that follows from others, and is written for readers only."""
    return name in tree.symbols and not tree.prompts[name] and name not in tree.named_choices


def _said(text: str, start: str) -> list[tuple[str, str]]:
    """What the header's lines of this start say, by the word in its group. What can't be printed is not ours."""
    return [(word, line) for word, line in re.findall(rf"^# {start} (.*)$", text, re.MULTILINE) if line.isprintable()]


def _sources(text: str) -> Sources:
    def said(word: str) -> list[str]:
        return [line for _, line in _said(text, f"({word}):")]

    def files(word: str) -> tuple[tuple[str, str], ...]:
        return tuple((path, digest) for path, _, digest in (line.rpartition(" ") for line in said(word)))

    return Sources(
        next(iter(files("defconfig")), None), files("fragment"), tuple(said("override")), "".join(said("kconfig"))
    )
