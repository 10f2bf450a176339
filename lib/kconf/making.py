"""The verbs that make a configuration: they read the layers, and write .config with config.py or nothing at all."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lib import names
from lib.files import shown, write_whole
from lib.kconf import defconfigs, dotconfig, layers, render, store
from lib.kconf.tree import Tree
from lib.kconf.verbs import COMMAND_LINE, overrides, own
from lib.options import CONFIG_PY, DOTCONFIG, Assignment, Faults, Resolved


class Loaded(NamedTuple):
    """Defconfigs and fragments: a layer each, their paths with sha256, and their lines that are no assignment."""

    layers: list[list[Assignment]]
    read: tuple[tuple[str, str], ...]
    wrong: list[layers.Fault]


def resolve(root: Path, *, base: Path | None, assignments: Sequence[Assignment]) -> Resolved:
    """The configuration of a .config (strictly read; None: all defaults) with the assignments on top. Raises Faults."""
    return resolve_in(Tree(root), base, assignments)


def resolve_in(tree: Tree, base: Path | None, assignments: Sequence[Assignment]) -> Resolved:
    """The same, which leaves the values in the tree. A note says when what .config was made from has changed."""
    below = dotconfig.read(tree, base) if base else dotconfig.NOTHING
    if base:
        below.notes.extend(dotconfig.stale(tree, base, below.sources))
    return resolved(tree, below, layers.layered(assignments))


def defconfig(root: Path, assignments: Sequence[Assignment]) -> int:
    """Loads DEFCONFIG (a name, a path, name+fragment+…; none: all defaults), then what the command line says."""
    tree = Tree(root)
    loaded = load(tree, own(assignments, "DEFCONFIG"))
    sources = dotconfig.Sources(next(iter(loaded.read), None), loaded.read[1:])
    return _made(tree, dotconfig.NOTHING._replace(sources=sources), loaded, assignments)


def loaded(tree: Tree, text: str) -> Resolved:
    """What DEFCONFIG=text stands for, on top of nothing."""
    found = load(tree, text)
    return resolved(tree, dotconfig.NOTHING, found.layers, found.wrong)


def fragment(root: Path, assignments: Sequence[Assignment]) -> int:
    """Puts DEFCONFIG, a fragment, on top of the present .config (all defaults without one)."""
    tree = Tree(root)
    loaded, below = load(tree, own(assignments, "DEFCONFIG")), _present(tree, folder(root, assignments))
    sources = below.sources._replace(fragments=(*below.sources.fragments, *loaded.read))
    return _made(tree, below._replace(sources=sources), loaded, assignments)


def setconfig(root: Path, assignments: Sequence[Assignment]) -> int:
    """Changes what the command line names, in any order, and nothing else."""
    if not overrides(assignments):
        raise Faults(["setconfig: nothing to set. make setconfig SYMBOL=value, for one or several symbols"])
    tree = Tree(root)
    return _made(tree, _present(tree, folder(root, assignments)), Loaded([], (), []), assignments)


def olddefconfig(root: Path, assignments: Sequence[Assignment]) -> int:
    """Fits an old .config to the tree: lines that do not fit are dropped and named, new symbols get their defaults."""
    tree = Tree(root)
    place = folder(root, assignments)
    return finish(tree, place, resolved(tree, old(tree, place), layers.layered(overrides(assignments))))


def savedefconfig(root: Path, assignments: Sequence[Assignment]) -> int:
    """Writes the lines of .config that differ from the defaults to DEFCONFIG, or to the file `defconfig`.

    Comments at the head of a defconfig that is written anew stay.
    """
    place = folder(root, assignments)
    if not (place / DOTCONFIG).exists():
        raise Faults([f"no {DOTCONFIG} to save; make defconfig or make menuconfig makes one"])
    tree = Tree(root)
    below = dotconfig.read(tree, place / DOTCONFIG)
    made = resolved(tree, below, layers.layered(overrides(assignments)))
    wanted = own(assignments, "DEFCONFIG")
    target = defconfigs.home(root, wanted, str(made.values["MODEL"])) if wanted else place / "defconfig"
    with _writing(target):
        write_whole(target, "".join(f"{line}\n" for line in (*defconfigs.heading(target), *tree.minimal().values())))
    _say(made.notes, f"saved {shown(target, root)}")
    return 0


def folder(root: Path, assignments: Iterable[Assignment]) -> Path:
    """Where .config and config.py lie: the root, or O=. Raises Faults when no folder can have that name."""
    text = own(assignments, "O")
    if not text.isprintable():
        raise Faults([f"O={text[:100]!a}: control characters are not allowed in a name"])
    try:
        (root / text).exists()
    except OSError as error:
        raise Faults([f"O={text[:100]}: {error.strerror}"]) from None
    return root / text


def old(tree: Tree, place: Path) -> dotconfig.Below:
    """The folder's .config, leniently: what does not fit is dropped, with a note. Nothing when there is none."""
    path = place / DOTCONFIG
    return dotconfig.read(tree, path, lenient=True) if path.exists() else dotconfig.NOTHING


def load(tree: Tree, wanted: str) -> Loaded:
    """What DEFCONFIG=wanted holds."""
    try:
        paths = defconfigs.find(tree.root, wanted) if wanted else []
    except Faults as faults:
        asked = Assignment("DEFCONFIG", wanted, COMMAND_LINE)
        return Loaded([], (), [layers.Fault(line, asked) for line in faults.lines])
    lines, read = [], []
    wrong: list[layers.Fault] = []
    for path in paths:
        try:
            name, content = shown(path, tree.root), path.read_bytes()
        except OSError as error:
            raise Faults([f"{path}: cannot be read: {error.strerror}"]) from None
        found, faults_here = layers.read_lines(tree, content.decode(errors="surrogateescape"), name)
        lines.append(found)
        read.append((name, render.sha256(content)))
        wrong += faults_here
    return Loaded(lines, tuple(read), wrong)


def resolved(
    tree: Tree, below: dotconfig.Below, above: Sequence[Sequence[Assignment]], wrong: Sequence[layers.Fault] = ()
) -> Resolved:
    """What comes of the layers. Raises Faults: all that is wrong in any of them."""
    settled = layers.settle(tree, [below.assignments, *above], wrong)
    if settled.faults:
        raise Faults([fault.line for fault in settled.faults])
    typed = [assignment for layer in above for assignment in layer if _is_typed(assignment)]
    notes = [*below.notes, *layers.ambient_notes(typed), *settled.notes]
    return render.render(tree, below.sources.plus(typed), settled.taken, notes)


def finish(tree: Tree, place: Path, made: Resolved, what: str = "") -> int:
    """Writes the pair, and says so with what it was made from."""
    with _writing(place):
        store.write_pair(place, made.dotconfig, made.config_py)
    missing = [name for name, symbol in tree.trackers.items() if made.values.get(symbol) and not names.installed(name)]
    notes = list(made.notes)
    if missing:
        notes.append(f"on, but not installed: {', '.join(missing)}. Install with: pip install {' '.join(missing)}")
    told = made.provenance
    source = [what or told["defconfig"] or "all defaults", *(path for path, _ in told["fragments"])]
    _say(
        notes,
        f"wrote {shown(place / DOTCONFIG, tree.root)} and {CONFIG_PY} ({' '.join([*source, *told['overrides']])})",
    )
    return 0


def _made(tree: Tree, below: dotconfig.Below, loaded: Loaded, assignments: Sequence[Assignment]) -> int:
    above = [*loaded.layers, *layers.layered(overrides(assignments))]
    return finish(tree, folder(tree.root, assignments), resolved(tree, below, above, loaded.wrong))


def _present(tree: Tree, place: Path) -> dotconfig.Below:
    """The folder's .config, strictly; all defaults, with a note, when there is none."""
    path = place / DOTCONFIG
    if path.exists():
        return dotconfig.read(tree, path)
    return dotconfig.NOTHING._replace(notes=[f"no {shown(path, tree.root)} yet: this starts from all defaults"])


def _is_typed(assignment: Assignment) -> bool:
    return assignment.origin in (COMMAND_LINE, layers.ENVIRONMENT) or assignment.origin.startswith("--")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Faults([f"{error.filename or path}: cannot be written: {error.strerror}"]) from None


def _say(notes: Iterable[str], line: str) -> None:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(line)
