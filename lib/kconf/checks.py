"""`make checkconfig`: in the Kconfig files, the defconfigs and the fragments nothing is wrong or without effect."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from lib import names
from lib.files import shown
from lib.kconf import defconfigs, layers, readers
from lib.kconf.tree import TRACKER_MENU, TRACKER_PREFIX, Tree
from lib.kconf.verbs import MAKE_VARIABLES
from lib.options import OWN_FLAGS, Assignment, Faults, Options, Symbol, flags

_REAL = re.compile(r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?[0-9]+[eE][+-]?[0-9]+")
_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_SET_BY_MAKEFILE = re.compile(r"^ *(?:(?:export|override) +)*([A-Za-z_]\w*) *(?:[:?+!]|::)?=", re.MULTILINE)
OTHER_FLAGS = ("--tracker", "--help")  # beside OWN_FLAGS, those that no symbol may have


def checkconfig(root: Path, _: Sequence[Assignment]) -> int:
    """Prints what was checked. Raises Faults: every finding, a line each."""
    tree = Tree(root)
    ready = defconfigs.listing(root)
    fragments = [item for item in ready if _is_fragment(item)]
    findings = [
        *undefined(tree),
        *unfit_defaults(tree),
        *names_taken(tree, (root / "Makefile").read_text(encoding="utf-8")),
        *flags_taken(tree),
        *untold(tree),
        *trackers_astray(tree, root),
        *(f"{tree.place(name)}: {name}: no code and no other symbol reads it" for name in _unread(tree)),
        *ambiguous(ready, root),
        *(finding for item in ready for finding in lines_astray(tree, item)),
    ]
    if findings:
        raise Faults(findings)
    counts = [
        _count(len(ready) - len(fragments), "defconfig"),
        _count(len(fragments), "fragment"),
        _count(len(tree.symbols), "symbol"),
    ]
    print(f"checked {', '.join(counts)}: nothing lost, nothing unread")
    return 0


# --- the Kconfig files ---


def undefined(tree: Tree) -> Iterator[str]:
    """Names that conditions and defaults use and nobody defines: kconfiglib takes them for n without a word."""
    told = set()
    for node in tree.kconf.node_iter():
        for item in sorted(node.referenced, key=lambda item: str(item.name)):
            if item.nodes or item.name in told or item.is_constant or _is_number(item.name):
                continue
            told.add(item.name)
            hint = names.near(item.name, tree.symbols)
            yield f"{node.filename}:{node.linenr}: {item.name} is used here and defined nowhere{hint}"


def unfit_defaults(tree: Tree) -> Iterator[str]:
    """Floats without annotation, defaults out of bounds, and what kconfiglib warns of, for every model."""
    told = set()
    for name, prompt in tree.prompts.items():
        for reason in dict.fromkeys(_unfit(tree, name) if prompt else ()):
            told.add(name)
            yield f"{tree.place(name)}: {name}: {reason}"
    for model, member in _models(tree).items():
        layers.put(tree, {member: Assignment(member, "y", "checkconfig")})
        tree.dotconfig("")  # evaluates every symbol
        for name, symbol in tree.symbols.items():
            is_set = symbol.config_string and tree.prompts[name]
            if name not in told and is_set and (fault := tree.fault(name, symbol.str_value)):
                told.add(name)
                yield f"{tree.place(name)}: {name}: default {symbol.str_value or 'none'} with MODEL={model}: {fault}"
    layers.put(tree, {})
    for warning in dict.fromkeys(tree.kconf.warnings):
        if not told & set(re.findall(r"\w+", warning)):
            yield " ".join(warning.removeprefix("warning: ").split())


def _unfit(tree: Tree, name: str) -> Iterator[str]:
    """What is wrong with the annotation and with each default by itself, whatever its condition."""
    symbol = tree.symbols[name]
    is_float = name in tree.bounds
    if tree.is_string(name) and not is_float and "[float" in tree.prompts[name]:
        yield f"the annotation in {tree.prompts[name]!r} is not understood; write it at the end, as [float 0< <=1]"
        return
    for value, _ in symbol.orig_defaults:
        if tree.kind(name) == "bool" or value.nodes:
            continue
        text = value.str_value
        if tree.is_string(name) and not is_float and _REAL.fullmatch(text):
            yield f"default {text} is a real number: the prompt needs an annotation such as [float 0<= <1]"
        elif reason := tree.fault(name, text) or _out_of_fixed_range(tree, name, text):
            yield f"default {text}: {reason}"


def _out_of_fixed_range(tree: Tree, name: str, text: str) -> str | None:
    """As `Tree.out_of_range`, of a range that always holds; the others are tried with every model."""
    ranges = tree.symbols[name].ranges
    fixed = len(ranges) == 1 and ranges[0][2] is tree.kconf.y
    return tree.out_of_range(name, text) if fixed else None


def names_taken(tree: Tree, makefile: str) -> Iterator[str]:
    """Symbols that could not be typed on make's command line, be a flag, or be read from config.py and `opts`."""
    makes = {*MAKE_VARIABLES, *_SET_BY_MAKEFILE.findall(makefile), "TRACKER"}
    for name in tree.symbols:
        attributes = {name.lower(), *(name.removeprefix(f"{model.upper()}_").lower() for model in _models(tree))}
        if name in makes:
            yield f"{tree.place(name)}: {name} is a variable of make's own. Choose another name"
        elif not _NAME.fullmatch(name):
            yield f"{tree.place(name)}: {name}: a name is of upper-case letters, digits and underscores"
        elif name != "MODEL" and (taken := sorted(word for word in attributes if hasattr(Options, word))):
            yield f"{tree.place(name)}: {name}: opts.{taken[0]} is something else already. Choose another name"


def flags_taken(tree: Tree) -> Iterator[str]:
    """Two meanings of one flag of a model's train.py."""
    told = {name: tree.describe(name) for name in tree.symbols}
    for model in _models(tree):
        symbols_of: dict[str, list[str]] = defaultdict(
            list, {name: ["train.py"] for name in (*OWN_FLAGS, *OTHER_FLAGS)}
        )
        for symbol in told.values():
            for name in _flags_of(symbol, told, model):
                symbols_of[name].append(symbol.name)
        for name, symbols in symbols_of.items():
            if len(symbols) > 1:
                place = tree.place(symbols[-1])
                yield f"{place}: {name} of {model}/train.py would belong to {' and to '.join(symbols)}. Rename one"


def _flags_of(symbol: Symbol, told: Mapping[str, Symbol], model: str) -> list[str]:
    own = list(flags({symbol.name: symbol, "MODEL": told["MODEL"]}, model))
    return [*own, *(f"--no-{name[2:]}" for name in own if symbol.type == "bool")]


def untold(tree: Tree) -> Iterator[str]:
    """What can be set and has no help; a member of a choice has its prompt, and the choice the help."""
    for name, symbol in tree.symbols.items():
        if tree.prompts[name] and not symbol.choice and not any(node.help for node in symbol.nodes):
            yield f"{tree.place(name)}: {name} has no help text"
    for choice in tree.kconf.unique_choices:
        node = choice.nodes[0]
        if node.prompt and not any(node.help for node in choice.nodes):
            yield f"{node.filename}:{node.linenr}: the choice {node.prompt[0]!r} has no help text"


def trackers_astray(tree: Tree, root: Path) -> Iterator[str]:
    """A switch for every tracker that there is code for, all in the one menu where TRACKER= looks for them."""
    known = {path.stem.removeprefix("to_") for path in root.glob("lib/track/to_*.py")}
    for name in tree.symbols:
        tracker = name.removeprefix(TRACKER_PREFIX).lower()
        if name.startswith(TRACKER_PREFIX) and tracker not in tree.trackers:
            yield f"{tree.place(name)}: {name} switches a tracker on; it belongs into the menu {TRACKER_MENU!r}"
        elif tracker in tree.trackers and name.startswith(TRACKER_PREFIX) and tracker not in known:
            yield f"{tree.place(name)}: {name}: there is no lib/track/to_{tracker}.py"
    for tracker in sorted(known - tree.trackers.keys()):
        symbol = f"{TRACKER_PREFIX}{tracker.upper()}"
        yield f"lib/track/to_{tracker}.py: no {symbol} in the menu {TRACKER_MENU!r} switches it on"


def _unread(tree: Tree) -> list[str]:
    return readers.unread(tree, readers.sources(tree.root, _models(tree)))


def _models(tree: Tree) -> dict[str, str]:
    """The models' folders, and the symbol that chooses each."""
    return {model: member.name for model, member in tree.named_choices.get("MODEL", {}).items()}


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]+|0[xX][0-9a-fA-F]+", text) is not None


# --- defconfigs and fragments ---


def ambiguous(ready: Iterable[defconfigs.Ready], root: Path) -> Iterator[str]:
    """A name that DEFCONFIG= could not tell from another."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for item in ready:
        by_name[item.name.removesuffix(".config")].append(shown(item.path, root))
    for name, paths in by_name.items():
        if len(paths) > 1:
            yield f"DEFCONFIG={name} is ambiguous: {', '.join(paths)}. Rename one"


def lines_astray(tree: Tree, item: defconfigs.Ready) -> list[str]:
    """Each line of the file that is not taken, or that savedefconfig would not write.

    The order of the lines, comments and blank lines are free. A fragment of a model is tried on that model's defaults.
    """
    place, model = shown(item.path, tree.root), _model_of(tree, item)
    text = item.path.read_bytes().decode(errors="surrogateescape")
    lines, wrong = layers.read_lines(tree, text, place)
    base = [Assignment("MODEL", model, place)] if model and _is_fragment(item) else []
    settled = layers.settle(tree, [base, lines] if base else [lines], wrong)
    findings = [*(fault.line for fault in settled.faults), *settled.notes]
    refused = {fault.assignment.origin for fault in settled.faults}
    minimal: dict[str, str] = tree.minimal()
    written = text.split("\n")
    wanted = {taken.origin: minimal.get(name) for name, taken in settled.taken.items()}
    for line in lines:
        said = written[int(line.origin.rpartition(":")[2]) - 1].strip()
        if line.origin not in refused and wanted.get(line.origin) != said:
            other = wanted.get(line.origin)
            rule = f"savedefconfig writes {other}" if other else "without effect: the default, or said by another line"
            findings.append(f"{line.origin}: {said}: {rule}")
    if not findings and model and tree.value("MODEL") != model:
        findings.append(f"{place}: in {model}'s folder, but of MODEL={tree.value('MODEL')}. Select {model}, or move it")
    return findings


def _is_fragment(item: defconfigs.Ready) -> bool:
    return item.path.suffix == ".config"


def _model_of(tree: Tree, item: defconfigs.Ready) -> str:
    """The model in whose folder the file lies; "" for one in the root's defconfigs/."""
    folder = item.path.parent.parent.name
    return folder if folder in _models(tree) and item.path.parent.parent != tree.root else ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
