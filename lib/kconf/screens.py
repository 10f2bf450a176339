"""menuconfig, nconfig and guiconfig: they open on any .config, broken or not; saving in them writes both files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lib.kconf import gui, making, menu
from lib.kconf.draft import Draft
from lib.kconf.tree import Tree
from lib.kconf.verbs import overrides
from lib.options import Assignment


def menuconfig(root: Path, assignments: Sequence[Assignment]) -> int:
    """The menu in the terminal."""
    menu.require_terminal()
    return _edited(root, assignments, menu.show, origin="menuconfig")


nconfig = menuconfig  # one menu under the two names that people know


def guiconfig(root: Path, assignments: Sequence[Assignment]) -> int:
    """The same in a window."""
    return _edited(root, assignments, gui.show, origin="guiconfig")


def _edited(root: Path, assignments: Sequence[Assignment], show: Callable[[Draft], None], *, origin: str) -> int:
    draft = Draft(Tree(root), making.folder(root, assignments), overrides(assignments), origin=origin)
    try:
        show(draft)
    except KeyboardInterrupt:
        print("left with Ctrl-C: what was not saved is gone", file=sys.stderr)
        return 130
    for note in draft.notes:
        print(f"note: {note}", file=sys.stderr)
    return 0
