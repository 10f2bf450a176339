"""The configurations that lie ready: defconfigs/ and each model's own, and fragments (`*.config`) beside them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from lib import names
from lib.files import shown
from lib.options import Faults


class Ready(NamedTuple):
    name: str
    summary: str
    path: Path


def listing(root: Path) -> list[Ready]:
    """Every defconfig and fragment, with what it says in a line."""
    files = [path for path in [*root.glob("defconfigs/*"), *root.glob("*/defconfigs/*")] if path.is_file()]
    files = [path for path in files if not path.name.startswith(".")]
    return [Ready(path.name, _summary(path.read_text(encoding="utf-8")), path) for path in sorted(files)]


def find(root: Path, text: str) -> list[Path]:
    """The files of `name`, `path` or `name+fragment+…`; a fragment's `.config` may be left out. Raises Faults."""
    if not text.isprintable():
        raise Faults([f"DEFCONFIG={text!a}: control characters are not allowed in a name"])
    if (root / text).is_file():  # also a path that contains a plus
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

    Raises Faults for a file that is no defconfig: it would be overwritten.
    """
    if "/" in text or (root / text).is_file():
        if (root / text).is_file() and _foreign((root / text).read_text(encoding="utf-8", errors="replace")):
            raise Faults([f"DEFCONFIG={text}: that file is no defconfig and stays as it is. Choose another name"])
        return root / text
    known = [item.path for item in listing(root) if item.name == text]
    return known[0] if len(known) == 1 else root / model / "defconfigs" / text


def _one(root: Path, name: str) -> Path:
    if (root / name).is_file():
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
    raise Faults([f"no defconfig {name!r}; {near}see make list-defconfigs"])


def _summary(text: str) -> str:
    lines = [
        line.removeprefix("CONFIG_").removesuffix("=y").replace('"', "")
        for line in text.splitlines()
        if line and line[0] != "#"
    ]
    return " ".join(lines) or "all defaults"


def _foreign(text: str) -> bool:
    """Whether a line is neither a setting nor a comment nor blank."""
    return any(line.strip() and not line.startswith(("#", "CONFIG_")) for line in text.splitlines())
