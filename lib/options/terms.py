"""The words of the front end: a symbol, what somebody wants it to be, and the configuration that comes of it all.

Like its neighbours that make named tuples, it does without `from __future__ import annotations`: each that is a
string is compiled on every start, and `make defconfig` would take a tenth longer.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lib.errors import Refused

try:  # as Python's own `random` does: hashlib loads OpenSSL, which takes as long as to parse the Kconfig tree
    if sys.version_info < (3, 12):
        from _sha256 import sha256  # type: ignore[import-not-found]  # typeshed leaves it out
    else:
        from _sha2 import sha256  # type: ignore[import-not-found]
except ImportError:
    from hashlib import sha256

Value = bool | int | float | str

ROOT = Path(__file__).resolve().parent.parent.parent
DOTCONFIG = ".config"
CONFIG_PY = "config.py"


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


def digest_of(root: Path, names: Sequence[str]) -> str:
    """sha256 (hex) of these files below the root, one after the other; raises OSError when one is gone."""
    return sha256_of(b"\0".join((root / name).read_bytes() for name in names))


def sha256_of(content: bytes) -> str:
    """In hex."""
    return str(sha256(content).hexdigest())
