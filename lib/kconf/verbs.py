"""The verbs of make, a function each: they read the layers, and write .config with config.py or nothing at all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lib import names
from lib.files import shown, write_whole
from lib.kconf import defconfigs, dotconfig, layers, menu, render, store
from lib.kconf.tree import Tree
from lib.options import CONFIG_PY, DOTCONFIG, Assignment, Faults, Resolved

COMMAND_LINE = "command line"
# Make's own variables; the rest of its command line are symbols. None of these may be one.
# fmt: off
MAKE_VARIABLES = frozenset({
    "A", "B", "DEFCONFIG", "JOBS", "KCONFIG_ALLCONFIG", "KCONFIG_CONFIG", "KCONFIG_SEED", "MAKEFLAGS", "NPROC", "O",
    "PY", "PYTHON", "Q", "RESUME", "RUN", "SHELL", "SYM", "T", "V", "VENV", "YES",
})
# fmt: on

Verb = Callable[[Path, Sequence[Assignment]], int]


def given(environ: Mapping[str, str], words: Sequence[str] = ()) -> list[Assignment]:
    """What came on make's command line (KCONF_CLI lists the names) or in words; TRACKER also from the environment."""
    typed = {name: environ.get(name, "") for name in environ.get("KCONF_CLI", "").split()}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise Faults([f"{word!r}: expected NAME=value"])
        typed[name] = value
    assignments = [Assignment(name.removeprefix("CONFIG_"), value, COMMAND_LINE) for name, value in typed.items()]
    if environ.get("TRACKER") and "TRACKER" not in typed:
        assignments.insert(0, Assignment("TRACKER", environ["TRACKER"], layers.ENVIRONMENT))
    return assignments


def overrides(assignments: Iterable[Assignment]) -> list[Assignment]:
    """Those that are about symbols."""
    return [assignment for assignment in assignments if assignment.name not in MAKE_VARIABLES]


def resolve(root: Path, *, base: Path | None, assignments: Sequence[Assignment]) -> Resolved:
    """The configuration of a .config (strictly read; None: all defaults) with the assignments on top. Raises Faults."""
    tree = Tree(root)
    below = dotconfig.read(tree, base) if base else dotconfig.NOTHING
    return _resolved(tree, below, layers.layered(assignments))


def defconfig(root: Path, assignments: Sequence[Assignment]) -> int:
    """Loads DEFCONFIG (a name, a path, name+fragment+…; none: all defaults), then what the command line says."""
    tree = Tree(root)
    files, read, wrong = _load(tree, _own(assignments, "DEFCONFIG"))
    below = dotconfig.NOTHING._replace(sources=dotconfig.Sources(next(iter(read), None), tuple(read[1:])))
    resolved = _resolved(tree, below, [*files, *layers.layered(overrides(assignments))], wrong)
    return _finish(tree, _folder(root, assignments), resolved)


def olddefconfig(root: Path, assignments: Sequence[Assignment]) -> int:
    """Fits an old .config to the tree: lines that do not fit are dropped and named, new symbols get their defaults."""
    tree = Tree(root)
    folder = _folder(root, assignments)
    return _finish(tree, folder, _resolved(tree, _old(tree, folder), layers.layered(overrides(assignments))))


def menuconfig(root: Path, assignments: Sequence[Assignment]) -> int:
    """Opens the menu on .config, broken or not; saving in it writes both files."""
    menu.require_terminal()
    tree = Tree(root)
    folder, typed = _folder(root, assignments), overrides(assignments)
    below = _old(tree, folder)
    opened = layers.settle(tree, [below.assignments, *layers.layered(typed)])
    if opened.faults:
        raise Faults([fault.line for fault in opened.faults])

    def save(taken: Mapping[str, Assignment]) -> None:
        resolved = render.render(tree, below.sources.plus(typed), taken, ())
        store.write_pair(folder, resolved.dotconfig, resolved.config_py)

    notes = [*below.notes, *opened.notes]
    unsaved = bool(notes or typed) or not (folder / DOTCONFIG).exists()
    status = menu.run(tree, folder / DOTCONFIG, opened.taken, save=save, dropped=notes, unsaved=unsaved)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return status


def savedefconfig(root: Path, assignments: Sequence[Assignment]) -> int:
    """Writes the lines of .config that differ from the defaults to DEFCONFIG, or to the file `defconfig`."""
    folder = _folder(root, assignments)
    if not (folder / DOTCONFIG).exists():
        raise Faults([f"no {DOTCONFIG} to save; make defconfig or make menuconfig makes one"])
    tree = Tree(root)
    below = dotconfig.read(tree, folder / DOTCONFIG)
    resolved = _resolved(tree, below, layers.layered(overrides(assignments)))
    wanted = _own(assignments, "DEFCONFIG")
    target = defconfigs.home(root, wanted, str(resolved.values["MODEL"])) if wanted else folder / "defconfig"
    with _writing(target):
        write_whole(target, "".join(f"{line}\n" for line in tree.minimal().values()))
    _say(resolved.notes, f"saved {shown(target, root)}")
    return 0


def list_defconfigs(root: Path, _: Sequence[Assignment]) -> int:
    """Prints name, content and path of each."""
    ready = defconfigs.listing(root)
    name_width = max((len(item.name) for item in ready), default=0)
    summary_width = min(60, max((len(item.summary) for item in ready), default=0))
    for item in ready:
        print(f"{item.name:{name_width}}  {item.summary:{summary_width}}  {shown(item.path, root)}")
    return 0


VERBS: dict[str, Verb] = {
    "defconfig": defconfig,
    "menuconfig": menuconfig,
    "olddefconfig": olddefconfig,
    "savedefconfig": savedefconfig,
    "list-defconfigs": list_defconfigs,
}


def _resolved(
    tree: Tree, below: dotconfig.Below, above: Sequence[Sequence[Assignment]], wrong: Sequence[str] = ()
) -> Resolved:
    settled = layers.settle(tree, [below.assignments, *above])
    if wrong or settled.faults:
        raise Faults([*wrong, *(fault.line for fault in settled.faults)])
    typed = [assignment for layer in above for assignment in layer if _is_typed(assignment)]
    return render.render(tree, below.sources.plus(typed), settled.taken, [*below.notes, *settled.notes])


def _is_typed(assignment: Assignment) -> bool:
    return assignment.origin in (COMMAND_LINE, layers.ENVIRONMENT) or assignment.origin.startswith("--")


def _load(tree: Tree, wanted: str) -> tuple[list[list[Assignment]], list[tuple[str, str]], list[str]]:
    """The layers of DEFCONFIG=wanted, its files with their sha256, and every line of them that is no assignment."""
    try:
        paths = defconfigs.find(tree.root, wanted) if wanted else []
    except Faults as faults:
        return [], [], faults.lines
    files, read, wrong = [], [], []
    for path in paths:
        name, content = shown(path, tree.root), path.read_bytes()
        lines, faults_here = layers.read_lines(tree, content.decode(errors="surrogateescape"), name)
        files.append(lines)
        read.append((name, render.sha256(content)))
        wrong += [fault.line for fault in faults_here]
    return files, read, wrong


def _old(tree: Tree, folder: Path) -> dotconfig.Below:
    path = folder / DOTCONFIG
    return dotconfig.read(tree, path, lenient=True) if path.exists() else dotconfig.NOTHING


def _finish(tree: Tree, folder: Path, resolved: Resolved) -> int:
    with _writing(folder):
        store.write_pair(folder, resolved.dotconfig, resolved.config_py)
    missing = [
        name for name, symbol in tree.trackers.items() if resolved.values.get(symbol) and not names.installed(name)
    ]
    notes = list(resolved.notes)
    if missing:
        notes.append(f"on, but not installed: {', '.join(missing)}. Install with: pip install {' '.join(missing)}")
    source = resolved.provenance["defconfig"] or "all defaults"
    said = " ".join(
        [source, *(path for path, _ in resolved.provenance["fragments"]), *resolved.provenance["overrides"]]
    )
    _say(notes, f"wrote {shown(folder / DOTCONFIG, tree.root)} and {CONFIG_PY} ({said})")
    return 0


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Faults([f"{error.filename or path}: cannot be written: {error.strerror}"]) from None


def _own(assignments: Iterable[Assignment], name: str) -> str:
    """One of make's own variables; "" when it was not given."""
    return next((assignment.value for assignment in assignments if assignment.name == name), "")


def _folder(root: Path, assignments: Iterable[Assignment]) -> Path:
    return root / _own(assignments, "O")


def _say(notes: Iterable[str], line: str) -> None:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(line)
