"""The configurations that lie ready: defconfigs/ and each model's own, and fragments (`*.config`) beside them."""

from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from lib import names
from lib.files import shown
from lib.kconf import dotconfig
from lib.options import Faults

LONGEST_SHOWN = 150  # characters of a name, in a message


class Ready(NamedTuple):
    name: str
    path: Path

    @property
    def summary(self) -> str:
        """What it sets, in a line."""
        text = self.path.read_text(encoding="utf-8", errors="replace")
        lines = [line.removeprefix("CONFIG_").removesuffix("=y") for line in text.splitlines()]
        return " ".join(line.replace('"', "") for line in lines if line and line[0] != "#") or "all defaults"


def listing(root: Path) -> list[Ready]:
    """Every defconfig and fragment."""
    files = [path for path in [*root.glob("defconfigs/*"), *root.glob("*/defconfigs/*")] if path.is_file()]
    return [Ready(path.name, path) for path in sorted(files) if not path.name.startswith(".")]


def find(root: Path, text: str) -> list[Path]:
    """The files of `name`, `path` or `name+fragment+…`; a fragment's `.config` may be left out. Raises Faults."""
    if not text.isprintable():
        raise Faults([f"DEFCONFIG={text[:LONGEST_SHOWN]!a}: control characters are not allowed in a name"])
    if _is_file(root / text):  # also a path that contains a plus
        return [root / text]
    found: list[Path] = []
    faults: list[str] = []
    for name in text.split("+"):
        try:
            found.append(_one(root, name))
        except Faults as fault:
            faults += fault.lines
    if faults:
        raise Faults(faults)
    return found


def home(root: Path, text: str, model: str) -> Path:
    """Where DEFCONFIG=text is saved: the file that it names, a new path, or a new name among the model's own.

    Raises Faults for what is no defconfig: it would be overwritten.
    """
    if not text.isprintable():
        raise Faults([f"DEFCONFIG={text[:LONGEST_SHOWN]!a}: control characters are not allowed in a name"])
    if "+" in text:
        raise Faults([f"DEFCONFIG={text}: a + stands between a defconfig and a fragment. Choose a name without one"])
    if "/" in text or _is_file(root / text):
        if _foreign(root / text):
            raise Faults([f"DEFCONFIG={text}: that is no defconfig and stays as it is. Choose another name"])
        return root / text
    known = [item.path for item in listing(root) if item.name == text]
    return known[0] if len(known) == 1 else root / model / "defconfigs" / text


def heading(path: Path) -> list[str]:
    """The comments that a defconfig begins with, which savedefconfig leaves in place."""
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines() if path.is_file() else []
    return list(takewhile(lambda line: not line.strip() or (line[0] == "#" and "is not set" not in line), lines))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for one
        return False


def _one(root: Path, name: str) -> Path:
    if _is_file(root / name):
        return root / name
    ready = listing(root)
    matches = [item.path for item in ready if name in (item.name, item.name.removesuffix(".config"))]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise Faults(
            [f"defconfig {name!r} is ambiguous: {', '.join(shown(path, root) for path in matches)}; give the path"]
        )
    close = names.close(Path(name).name, [item.name for item in ready])
    near = f"close: {', '.join(close)}; " if close else ""
    what = "fragment" if name.endswith(".config") else "defconfig"
    raise Faults([f"no {what} {name[:LONGEST_SHOWN]!r}; {near}see make list-defconfigs"])


def _foreign(path: Path) -> bool:
    """Whether it is no file, or a .config, or a line is neither a setting nor a comment nor blank."""
    try:
        if not path.is_file():
            return path.exists()
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise Faults([f"{path}: cannot be read: {error.strerror}"]) from None
    return dotconfig.TITLE in lines[:1] or any(line.strip() and not line.startswith(("#", "CONFIG_")) for line in lines)
