"""What a training script sees: every symbol of the Kconfig tree as a typed, read-only attribute and as a flag."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from lib.names import near
from lib.options.flags import OWN_FLAGS, flag, flags, help_text, parse, split
from lib.options.terms import (
    CONFIG_PY,
    DOTCONFIG,
    ROOT,
    Assignment,
    Faults,
    FrontEnd,
    Resolved,
    Symbol,
    Value,
    digest_of,
    sha256_of,
)

__all__ = [
    "CONFIG_PY",
    "DOTCONFIG",
    "OWN_FLAGS",
    "ROOT",
    "Assignment",
    "Faults",
    "FrontEnd",
    "Options",
    "Record",
    "Resolved",
    "Symbol",
    "Value",
    "digest_of",
    "flag",
    "flags",
    "load",
    "sha256_of",
]

T = TypeVar("T")
HELP = {"-h", "--help"}


class Record(NamedTuple):
    """What a run folder keeps of the options, and what decides which run this is."""

    model: str
    optimizer: str
    project: str
    name: str  # "": not chosen
    hash: str
    resume: str  # a run, auto or no
    reproduces: str  # the folder of the run that this one trains again; "": none
    files: dict[str, str]  # name -> text


class Options:
    """This run's configuration: `opts.learning_rate` is LEARNING_RATE, `opts.block_size` gpt2's own GPT2_BLOCK_SIZE."""

    __slots__ = ("_dry_run", "_evaluates", "_prefix", "_reproduces", "_resolved", "_resume", "_typed")
    _dry_run: int
    _evaluates: str
    _prefix: str
    _reproduces: str
    _resolved: Resolved
    _resume: str
    _typed: tuple[str, ...]

    def __init__(
        self,
        model: str,
        resolved: Resolved,
        *,
        resume: str = "no",
        reproduces: str = "",
        evaluates: str = "",
        dry_run: int = 0,
        typed: Sequence[str] = (),
    ) -> None:
        values = (dry_run, evaluates, f"{model.upper()}_", reproduces, resolved, resume, tuple(typed))
        for name, value in zip(self.__slots__, values, strict=True):
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
            reproduces=self._reproduces,
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
    def evaluates(self) -> str:
        """The folder of the run whose best weights are to be validated; "": none, this is to train."""
        return self._evaluates

    @property
    def dry_run(self) -> int:
        """Number of processes whose plan is to be printed; 0: this is to train."""
        return self._dry_run

    @property
    def flags(self) -> list[str]:
        """The command line as it was typed."""
        return list(self._typed)

    def _symbol(self, attribute: str) -> str:
        for symbol in (self._prefix + attribute.upper(), attribute.upper()):
            if symbol in self.values or symbol in self.unset:
                return symbol
        known = [name.removeprefix(self._prefix).lower() for name in (*self.values, *self.unset)]
        raise AttributeError(f"no symbol {attribute.upper()}{near(attribute, known)}")


def load(model: str, argv: Sequence[str] | None = None, *, front_end: FrontEnd, root: Path = ROOT) -> Options:
    """The options of `<model>/train.py`. Faults are printed, one line each, and the process exits with 2."""
    typed = list(sys.argv[1:] if argv is None else argv)
    try:
        own, rest = split(typed)
        processes = _processes(own.pop("--dry-run")) if "--dry-run" in own else 0
        original = _original(own, rest, root) if "--reproduce" in own else ""
        evaluated = _evaluated(own, root) if "--eval" in own else ""
        if original or evaluated:
            own["--config"] = original or evaluated
        folder = Path(own["--config"]) if "--config" in own else root
        if "--config" in own and not (folder / DOTCONFIG).is_file():
            raise Faults([f"--config {folder}: no {DOTCONFIG} there"])
        ready = None if rest or folder != root else _written(root, model)
        resolved = ready or _resolve(model, rest, folder, root, front_end)
    except Faults as faults:
        _tell("error", faults.lines)
        raise SystemExit(2) from None
    except OSError as error:  # a name that is too long for a file, a .config that is none
        _tell("error", [f"{error.filename}: cannot be read: {error.strerror}"])
        raise SystemExit(2) from None
    _tell("note", resolved.notes)
    return Options(
        model,
        resolved,
        resume=own.get("--resume", "no"),
        reproduces=original,
        evaluates=evaluated,
        dry_run=processes,
        typed=typed,
    )


def _processes(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise Faults([f"--dry-run={text}: expected a number of processes, such as --dry-run=4"])
    return int(text)


def _evaluated(own: Mapping[str, str], root: Path) -> str:
    """The folder of the run that --eval names. Raises Refused, also for what would name another one."""
    from lib.journal import folder

    if others := [name for name in own if name != "--eval"]:
        raise Faults([f"--eval with {' '.join(others)}: the run has a configuration of its own. Leave one of them out"])
    return str(folder.find(root / "runs", own["--eval"], asked_as="--eval").path)


def _original(own: Mapping[str, str], rest: Sequence[str], root: Path) -> str:
    """The folder of the run that --reproduce names. Raises Refused, also for what would change something in it."""
    from lib.journal import folder  # only a reproduction needs it

    others = [*(name for name in own if name != "--reproduce"), *(word for word in rest if word not in HELP)]
    if others:
        raise Faults([f"--reproduce with {' '.join(others)}: a reproduction changes nothing. Give the run alone"])
    return str(folder.find(root / "runs", own["--reproduce"], asked_as="--reproduce").path)


def _written(folder: Path, model: str) -> Resolved | None:
    """What config.py says, if it was made for this model from the .config beside it and the Kconfig files of now."""
    try:
        dotconfig = (folder / DOTCONFIG).read_bytes()
        text = (folder / CONFIG_PY).read_text(encoding="utf-8")
    except OSError:
        return None
    if sha256_of(dotconfig) not in text:
        return None
    module: dict[str, Any] = {"__name__": "config"}
    exec(compile(text, folder / CONFIG_PY, "exec"), module)  # not imported: bytecode caches can be a second old
    config = module["config"]
    told = config.provenance
    sources = [(told["defconfig"], told["defconfig_sha256"]), *told["fragments"]]
    digests = {(name,): digest for name, digest in sources if name} | {tuple(told["kconfig"]): told["kconfig_sha256"]}
    try:
        fresh = all(digest_of(folder, names) == digest for names, digest in digests.items())
    except OSError:
        fresh = False
    if not fresh or model != config.MODEL:
        return None  # the front end says what has changed
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
    if HELP & set(rest):
        try:
            now = front_end.resolve(root, base=base, assignments=[mine])
        except Faults:  # a broken .config does not keep anyone from reading the help
            now = front_end.resolve(root, base=None, assignments=[mine])
        print(help_text(model, known, now))
        raise SystemExit(0)
    assignments, wrong = parse(rest, known)
    try:
        resolved = front_end.resolve(root, base=base, assignments=[mine, *assignments])
    except Faults as faults:
        raise Faults([*wrong, *faults.lines]) from None
    if wrong:
        raise Faults(wrong)
    return resolved


def _tell(kind: str, lines: Sequence[str]) -> None:
    """To stderr, once on every node: torchrun starts this program as often as there are devices."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        for line in lines:
            print(f"{kind}: {line}", file=sys.stderr)
