"""A configuration that somebody edits on a screen: opened with what fits, checked as it is typed, saved whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lib.files import write_whole
from lib.kconf import defconfigs, dotconfig, layers, making, render, store
from lib.kconf.tree import Tree
from lib.options import CONFIG_PY, DOTCONFIG, Assignment, Faults, Resolved

SHOWN_LINES = 15


class Draft:
    """kconfiglib's screens take it for their Kconfig object: opening and saving are ours, the rest is passed on."""

    def __init__(self, tree: Tree, folder: Path, typed: Sequence[Assignment], *, origin: str) -> None:
        """Opens the folder's .config with what was typed on top. Raises Faults if either cannot be taken."""
        self.tree, self.path, self.origin = tree, folder / DOTCONFIG, origin
        self.dropped: list[str] = []  # what could not be taken along from the file that was opened last
        self.notes: list[str] = []  # the same of all files, and what else is to be said
        self._found = _content(self.path)  # when it was opened, and when somebody else's change was last told
        self._open(making.old(tree, folder), typed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tree.kconf, name)

    @property
    def unsaved(self) -> bool:
        """Whether saving would change .config or config.py."""
        now = self._rendered()
        return not (_holds(self.path, now.dotconfig) and _holds(self.path.with_name(CONFIG_PY), now.config_py))

    def load_config(self, filename: str) -> str:
        """Opens another file; what does not fit is `dropped`. Raises OSError, which the screens show."""
        path = _named(filename)
        with path.open("rb"):  # or it is a folder, or may not be read
            self._open(dotconfig.read(self.tree, path, lenient=True), ())
        return f"Loaded configuration '{filename}'"

    def write_config(self, filename: str) -> str:
        """Saves both files, or under another name than .config a copy of it. Raises OSError, which the screens show."""
        now = self._rendered()
        if self.is_home(filename):
            self._refuse_once(filename)
            store.write_pair(self.path.parent, now.dotconfig, now.config_py)
            self._found = _content(self.path)
            return f"Configuration saved to '{filename}', and {CONFIG_PY} beside it"
        _write(filename, now.dotconfig)
        return f"Copy saved to '{filename}'. {CONFIG_PY} is written beside '{self.path}' only"

    def _refuse_once(self, filename: str) -> None:
        """Somebody else may have written the file while the screen was open: nothing of theirs goes without a word."""
        there = _content(self.path)
        if there != self._found:
            self._found = there
            raise OSError(
                errno.EEXIST, f"changed by another program. Saving again keeps that as {DOTCONFIG}.old", filename
            )

    def write_min_config(self, filename: str) -> str:
        """Saves what savedefconfig would. Raises OSError, which the screens show."""
        lines = [*defconfigs.heading(_named(filename)), *self.tree.minimal().values()]
        _write(filename, "".join(f"{line}\n" for line in lines))
        return f"Minimal configuration saved to '{filename}'"

    def is_home(self, filename: str) -> bool:
        """Whether this is the .config that was opened first, and that config.py lies beside."""
        return os.path.realpath(_named(filename)) == os.path.realpath(self.path)

    def refusal(self, name: str, text: str) -> str:
        """Why the symbol cannot have this value, in the words of every other place; "" when it can."""
        reason = self.tree.fault(name, text) or self.tree.out_of_range(name, text)
        line = layers.fault(Assignment(name, text, self.origin), reason).line if reason else ""
        return line.removeprefix(f"{self.origin}: ")

    def dropped_text(self) -> str:
        """For a message box; all of it is printed when the screen has been left."""
        more = len(self.dropped) - SHOWN_LINES
        return "\n".join([*self.dropped[:SHOWN_LINES], *([f"and {more} more"] if more > 0 else [])])

    def telling(self, load: Callable[..., None], tell: Callable[[], None]) -> Callable[..., None]:
        """The screen's dialog `load`, with `tell` after it when another file was opened there."""

        def dialog(*args: Any) -> None:
            before = self.dropped
            load(*args)
            if self.dropped is not before:
                tell()

        return dialog

    def govern(self, screen: Any) -> None:
        """Puts our rules into menuconfig or guiconfig, kconfiglib's modules; these names mean the same in both."""
        describe = screen._node_str

        def needs_save() -> bool:  # asked after another file was loaded: it is not the one to save to
            screen._conf_filename = str(self.path)
            return True

        def range_info(symbol: Any) -> str | None:
            bounds = self.tree.describe(symbol.name).bounds
            return f"Range: {bounds}" if bounds else None

        screen.standard_config_filename = lambda: str(self.path)
        screen._load_config = lambda: self.unsaved  # the layers are in the tree already
        screen._needs_save = needs_save
        screen._range_info = range_info
        screen._node_str = lambda node: describe(node).replace(" (NEW)", "")  # a default is not news

    def _open(self, below: dotconfig.Below, typed: Sequence[Assignment]) -> None:
        opened = layers.settle(self.tree, [below.assignments, *layers.layered(typed)])
        if opened.faults:
            raise Faults([fault.line for fault in opened.faults])
        self._opened, self._sources = opened.taken, below.sources.plus(typed)
        self._shown = {name: symbol.str_value for name, symbol in self.tree.symbols.items()}
        self.dropped = [*below.notes, *opened.notes]
        self.notes += [*layers.ambient_notes(typed), *self.dropped]

    def _rendered(self) -> Resolved:
        return render.render(self.tree, self._sources, self._chosen(), ())

    def _chosen(self) -> dict[str, Assignment]:
        """What is set in the tree now: unchanged assignments as they were, the others with the screen as origin."""
        minimal = self.tree.minimal()
        now: dict[str, Assignment] = {}
        for name, symbol in self.tree.symbols.items():
            is_set = symbol.choice.user_selection is symbol if symbol.choice else symbol.user_value is not None
            if not is_set or not symbol.visibility:
                continue
            value = symbol.str_value
            if name in self._opened and self._opened[name].value == value:
                now[name] = self._opened[name]
            elif value != self._shown[name] or name in minimal:  # else it was changed and changed back
                now[name] = Assignment(name, value, self.origin)
        return now


def _holds(path: Path, text: str) -> bool:
    return _content(path) == text.encode(errors="surrogateescape")


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _named(filename: str) -> Path:
    """Raises OSError for what names no file."""
    if "\0" in filename or not Path(filename).name:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), filename)
    return Path(filename)


def _write(filename: str, text: str) -> None:
    """Errors name the file that the user named, not our temporary one."""
    try:
        write_whole(_named(filename), text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, filename) from None
