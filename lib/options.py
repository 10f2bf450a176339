"""What a training script sees: every symbol of the Kconfig tree as a typed, read-only attribute and as a flag."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar

from lib.errors import Refused

Value = bool | int | float | str
T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
DOTCONFIG = ".config"
CONFIG_PY = "config.py"
OWN_FLAGS = {  # not symbols: they say which configuration and which run, not what is in them
    "--config": ("FOLDER", "Start from the .config in this folder, such as a run's"),
    "--resume": ("RUN", "Go on with this run; auto: the newest unfinished one of this configuration; no: none"),
}


class Symbol(NamedTuple):
    """One symbol of the Kconfig tree, as far as a flag, a help text or a check needs it."""

    name: str
    type: str  # bool, int, hex, string or float
    prompt: str  # without the float annotation; "" when it cannot be set
    menu: str  # the menu of the top level that it stands in
    help: str
    default: str  # with everything else at its default; "" when it is unset then
    needs: str  # what must be on before it can be set
    bounds: str  # "(0, 10]", "[-1, 64]" or ""
    values: tuple[str, ...]  # of a choice that has a name: MODEL, OPTIMIZER
    choice: str  # of a member: the name of its choice, or "" when that has none
    place: str  # lib/optim/Kconfig:20


class Assignment(NamedTuple):
    """Somebody wants a symbol to have a value. The order of assignments is their rank: later ones win."""

    name: str
    value: str
    origin: str  # "defconfigs/quickstart:1", "command line", "--learning-rate"
    typed: str = ""  # what was written, where that is not NAME=value: TRACKER=both, OPTIMIZER=sgd, --no-bias

    @property
    def text(self) -> str:
        return self.typed or f"{self.name}={self.value}"

    @property
    def said(self) -> str:
        """`command line: SEED=1`, `--seed=1`: who says what, for messages."""
        return self.text if self.origin.startswith("--") else f"{self.origin}: {self.text}"

    @property
    def layer(self) -> str:
        """All lines of one file, all flags, and the whole command line are a layer each."""
        if self.origin.startswith("--"):
            return "flags"
        place, _, line = self.origin.rpartition(":")
        return place if line.isdigit() else self.origin


class Resolved(NamedTuple):
    """A configuration in which every assignment was taken, or has a note that says why not."""

    values: dict[str, Value]  # symbols that are set; those whose needs are unmet are absent
    origins: dict[str, str]  # of every value: "default", or the origin of its assignment
    unset: dict[str, str]  # the other symbols, and what each needs
    provenance: dict[str, Any]  # JSON-able: defconfig, fragments, overrides and hashes
    notes: list[str]
    dotconfig: str  # the text of .config
    config_py: str  # the text of config.py


class Faults(Refused):
    """Everything that is wrong with what the user typed: one line each, all at once."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = list(lines)


class FrontEnd(Protocol):
    """The part of lib.kconf that options needs; it is passed in, so that this file stays on the standard library."""

    def symbols(self, root: Path) -> Mapping[str, Symbol]: ...

    def resolve(self, root: Path, *, base: Path | None, assignments: Sequence[Assignment]) -> Resolved: ...


def flag(name: str, model: str) -> str:
    """The flag of a symbol or of TRACKER: `--block-size` for GPT2_BLOCK_SIZE in gpt2, `--learning-rate` everywhere."""
    return "--" + name.removeprefix(f"{model.upper()}_").lower().replace("_", "-")


def flags(symbols: Mapping[str, Symbol], model: str) -> dict[str, Symbol]:
    """Every flag of the model's train.py; members of a choice (`--optimizer-sgd`), too, though not in --help."""
    others = tuple(f"{other.upper()}_" for other in symbols["MODEL"].values if other != model)
    return {
        flag(name, model): symbol
        for name, symbol in symbols.items()
        if (symbol.prompt or symbol.values) and not name.startswith(others) and "MODEL" not in (name, symbol.choice)
    }


class Record(NamedTuple):
    """What a run folder keeps of the options, and what decides which run this is."""

    model: str
    optimizer: str
    project: str
    name: str  # "": not chosen
    hash: str
    resume: str  # a run, auto or no
    files: dict[str, str]  # name -> text


class Options:
    """This run's configuration: `opts.learning_rate` is LEARNING_RATE, `opts.block_size` gpt2's own GPT2_BLOCK_SIZE."""

    __slots__ = ("_prefix", "_resolved", "_resume", "_typed")
    _prefix: str
    _resolved: Resolved
    _resume: str
    _typed: tuple[str, ...]

    def __init__(self, model: str, resolved: Resolved, *, resume: str = "no", typed: Sequence[str] = ()) -> None:
        for name, value in zip(self.__slots__, (f"{model.upper()}_", resolved, resume, tuple(typed)), strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"options are read-only: {name} is set by a flag, by make or in .config")

    def __getattr__(self, name: str) -> Any:  # each symbol has its own type, which no annotation here can know
        if name.startswith("_"):
            raise AttributeError(name)
        symbol = self._symbol(name)
        if symbol in self.unset:
            raise AttributeError(f"{name} is unset: {symbol} needs {self.unset[symbol]}")
        return self.values[symbol]

    def get(self, name: str, default: Any = None) -> Any:
        """The value, or the default where the symbol is unset. An unknown name is an AttributeError here, too."""
        return self.values.get(self._symbol(name), default)

    def fill(self, form: type[T]) -> T:
        """A dataclass from the symbols that its fields are named after.

        A field whose symbol is unset keeps its own default; one that has none is an AttributeError.
        """
        from dataclasses import MISSING, fields

        found = {}
        for field in fields(form):  # type: ignore[arg-type]  # T is any dataclass
            optional = field.default is not MISSING or field.default_factory is not MISSING
            if field.init and not (optional and self._symbol(field.name) in self.unset):
                found[field.name] = getattr(self, field.name)
        return form(**found)

    def record(self) -> Record:
        """What the run folder keeps."""
        import json  # only needed once training starts

        facts = {"values": self.values, "origins": self.origins, "provenance": self.provenance, "flags": self.flags}
        return Record(
            model=self.model,
            optimizer=self.optimizer,
            project=self.tracker_project,
            name=self.tracker_run_name,
            hash=self.hash,
            resume=self.resume,
            files={
                DOTCONFIG: self.dotconfig,
                CONFIG_PY: self.config_py,
                "config.json": json.dumps(facts, indent=1) + "\n",
            },
        )

    @property
    def values(self) -> dict[str, Value]:
        return self._resolved.values

    @property
    def origins(self) -> dict[str, str]:
        return self._resolved.origins

    @property
    def unset(self) -> dict[str, str]:
        return self._resolved.unset

    @property
    def provenance(self) -> dict[str, Any]:
        return self._resolved.provenance

    @property
    def hash(self) -> str:
        return str(self.provenance["hash"])

    @property
    def dotconfig(self) -> str:
        return self._resolved.dotconfig

    @property
    def config_py(self) -> str:
        return self._resolved.config_py

    @property
    def resume(self) -> str:
        return self._resume

    @property
    def flags(self) -> list[str]:
        """The command line as it was typed."""
        return list(self._typed)

    def _symbol(self, attribute: str) -> str:
        for symbol in (self._prefix + attribute.upper(), attribute.upper()):
            if symbol in self.values or symbol in self.unset:
                return symbol
        known = [name.removeprefix(self._prefix).lower() for name in (*self.values, *self.unset)]
        raise AttributeError(f"no symbol {attribute.upper()}{_near(attribute, known)}")


def load(model: str, argv: Sequence[str] | None = None, *, front_end: FrontEnd, root: Path = ROOT) -> Options:
    """The options of `<model>/train.py`. Faults are printed, one line each, and the process exits with 2."""
    typed = list(sys.argv[1:] if argv is None else argv)
    try:
        own, rest = _own_flags(typed)
        folder = Path(own["--config"]) if "--config" in own else root
        if "--config" in own and not (folder / DOTCONFIG).is_file():
            raise Faults([f"--config {folder}: no {DOTCONFIG} there"])
        ready = None if rest or folder != root else _written(root, model)
        resolved = ready or _resolve(model, rest, folder, root, front_end)
    except Faults as faults:
        _tell("error", faults.lines)
        raise SystemExit(2) from None
    _tell("note", resolved.notes)
    return Options(model, resolved, resume=own.get("--resume", "no"), typed=typed)


def _own_flags(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    own, rest, queue = {}, [], list(words)
    while queue:
        word = queue.pop(0)
        name, equals, value = word.partition("=")
        if name not in OWN_FLAGS:
            rest.append(word)
        elif equals or queue:
            own[name] = value if equals else queue.pop(0)
        else:
            raise Faults([f"{name}: a value is missing"])
    return own, rest


def digest_of(root: Path, names: Sequence[str]) -> str:
    """sha256 (hex) of these files below the root, one after the other; raises OSError when one is gone."""
    return hashlib.sha256(b"\0".join((root / name).read_bytes() for name in names)).hexdigest()


def _written(folder: Path, model: str) -> Resolved | None:
    """What config.py says, if it was made for this model from the .config beside it and the Kconfig files of now."""
    try:
        dotconfig = (folder / DOTCONFIG).read_bytes()
        text = (folder / CONFIG_PY).read_text(encoding="utf-8")
    except OSError:
        return None
    if hashlib.sha256(dotconfig).hexdigest() not in text:
        return None
    module: dict[str, Any] = {"__name__": "config"}
    exec(compile(text, folder / CONFIG_PY, "exec"), module)  # not imported: bytecode caches can be a second old
    config = module["config"]
    told = config.provenance
    try:
        stale = told["kconfig_sha256"] != digest_of(folder, told["kconfig"])
    except (KeyError, OSError):
        stale = True
    if stale or model != config.MODEL:
        return None
    return Resolved(config.asdict(), config.origins, config.unset, told, [], dotconfig.decode(), text)


def _resolve(model: str, rest: Sequence[str], folder: Path, root: Path, front_end: FrontEnd) -> Resolved:
    """The folder's .config (all defaults without one), this script's model, and the flags on top."""
    dotconfig = folder / DOTCONFIG
    base = dotconfig if dotconfig.exists() else None
    theirs = re.search(r'^CONFIG_MODEL="(.*)"$', dotconfig.read_text(errors="replace"), re.MULTILINE) if base else None
    if folder != root and theirs and theirs[1] != model:
        raise Faults([f"--config {folder}: a configuration of {theirs[1]}; run python {theirs[1]}/train.py"])
    mine = Assignment("MODEL", model, f"{model}/train.py")
    if not rest:
        return front_end.resolve(root, base=base, assignments=[mine])
    symbols = front_end.symbols(root)
    known = flags(symbols, model)
    if {"-h", "--help"} & set(rest):
        try:
            now = front_end.resolve(root, base=base, assignments=[mine])
        except Faults:  # a broken .config does not keep anyone from reading the help
            now = front_end.resolve(root, base=None, assignments=[mine])
        print(help_text(model, known, now))
        raise SystemExit(0)
    assignments, wrong = _parse(rest, known)
    try:
        resolved = front_end.resolve(root, base=base, assignments=[mine, *assignments])
    except Faults as faults:
        raise Faults([*wrong, *faults.lines]) from None
    if wrong:
        raise Faults(wrong)
    return resolved


def _parse(words: Sequence[str], known: Mapping[str, Symbol]) -> tuple[list[Assignment], list[str]]:
    """`--x 1`, `--x=1`, `--x` and `--no-x` as assignments; of a flag that is given twice the last counts."""
    assignments: dict[str, Assignment] = {}
    wrong: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        spelled, equals, value = word.partition("=")
        name = spelled.replace("_", "-")
        off = "--" + name.removeprefix("--no-")
        symbol = known.get(name)
        if not name.startswith("--"):
            wrong.append(f"{word!r}: expected a flag, such as --seed=1; --help lists them")
        elif name == "--tracker" or (symbol and symbol.type != "bool"):
            if not equals and not queue:
                wrong.append(f"{name}: a value is missing")
                continue
            target, value = symbol.name if symbol else "TRACKER", value if equals else queue.pop(0)
            assignments[target] = Assignment(target, value, name, typed=f"{name}={value}")
        elif symbol:
            assignments[symbol.name] = Assignment(symbol.name, value if equals else "y", name, typed=word)
        elif name.startswith("--no-") and off in known and known[off].type == "bool" and not equals:
            assignments[known[off].name] = Assignment(known[off].name, "n", name, typed=word)
        else:
            wrong.append(f"{spelled}: unknown flag{_near(name, [*known, *OWN_FLAGS, '--tracker', '--help'])}")
            if not equals and queue and not queue[0].startswith("--"):
                queue.pop(0)  # its value
    return list(assignments.values()), wrong


def help_text(model: str, known: Mapping[str, Symbol], now: Resolved) -> str:
    """The flags by menu, each with the value that it has now."""
    menus: dict[str, list[tuple[str, str]]] = {
        "": [(f"{name} {value}", text) for name, (value, text) in OWN_FLAGS.items()]
    }
    for name, symbol in known.items():
        if symbol.choice:
            continue
        entries = menus.setdefault(symbol.menu, [])
        if symbol.name.startswith("ENABLE_") and not any(entry.startswith("--tracker ") for entry, _ in entries):
            entries.append(("--tracker LIST", "Trackers: none, both, all, or names with commas between"))
        entries.append((_spelled(name, symbol), f"{symbol.prompt} {_state(symbol, now)}"))
    width = min(34, max(len(entry) for entries in menus.values() for entry, _ in entries))
    lines = [
        f"usage: python {model}/train.py [flags]",
        "",
        "Flags hold for this run only. Behind `=` stands the value without them.",
    ]
    for menu, entries in menus.items():
        lines += ["", *([menu] if menu else []), *(f"  {entry:{width}}  {text}" for entry, text in entries)]
    return "\n".join(lines)


def _spelled(name: str, symbol: Symbol) -> str:
    if symbol.type == "bool":
        return f"--[no-]{name[2:]}"
    return f"{name} {'{' + ','.join(symbol.values) + '}' if symbol.values else symbol.type.upper()}"


def _state(symbol: Symbol, now: Resolved) -> str:
    if symbol.name in now.unset:
        return f"(needs {now.unset[symbol.name]})"
    value = now.values[symbol.name]
    shown = ("y" if value else "n") if isinstance(value, bool) else value
    return f"= {shown}" + (f" in {symbol.bounds}" if symbol.bounds else "")


def _near(word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _tell(kind: str, lines: Sequence[str]) -> None:
    """To stderr, once on every node: torchrun starts this program as often as there are devices."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        for line in lines:
            print(f"{kind}: {line}", file=sys.stderr)
