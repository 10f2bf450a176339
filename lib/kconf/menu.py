"""kconfiglib's menuconfig, on our layers: floats are checked in its dialog, and saving writes .config and config.py."""

from __future__ import annotations

import locale
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.kconf.tree import Tree
from lib.options import Assignment, Faults

ORIGIN = "menuconfig"
SHOWN_LINES = 15


def require_terminal() -> None:
    """Raises Faults, one line, where a full-screen menu can't be shown."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Faults(["menuconfig needs a terminal; without one: make defconfig SYMBOL=value"])
    try:
        import curses
    except ImportError:
        raise Faults(["menuconfig needs Python's curses module; without it: make defconfig SYMBOL=value"]) from None
    try:
        curses.setupterm()
        usable = curses.tigetstr("cup") is not None  # TERM=dumb has no way to move the cursor
    except curses.error:
        usable = False
    if not usable:
        raise Faults(
            [f"menuconfig: TERM={os.environ.get('TERM', '')} cannot show a menu; try TERM=xterm make menuconfig"]
        )
    try:
        locale.setlocale(locale.LC_ALL, "")
    except locale.Error:
        wanted = next((os.environ[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if os.environ.get(name)), "")
        raise Faults(
            [f"menuconfig: the locale {wanted} is not installed; try LC_ALL=C.UTF-8 make menuconfig"]
        ) from None


def run(
    tree: Tree,
    path: Path,
    opened: Mapping[str, Assignment],
    *,
    save: Callable[[Mapping[str, Assignment]], None],
    dropped: Sequence[str],
    unsaved: bool,
) -> int:
    """Shows the menu until the user leaves it. `save` gets what has been chosen by then, as often as the user saves."""
    import menuconfig  # kconfiglib's

    shown = {name: symbol.str_value for name, symbol in tree.symbols.items()}

    def write_pair(filename: str) -> str:
        save(chosen(tree, opened, shown))
        return f"Configuration saved to '{filename}', and config.py beside it"

    os.environ["KCONFIG_CONFIG"] = str(path)  # the file that its dialogs offer
    _check_floats(menuconfig, tree)
    _save_through(menuconfig, path, write_pair)
    _show_ours(menuconfig, dropped)
    menuconfig._load_config = lambda: unsaved  # the layers are in the tree already
    try:
        menuconfig.menuconfig(tree.kconf)
    except KeyboardInterrupt:
        print("left with Ctrl-C: what was not saved is gone")
        return 130
    return 0


def chosen(tree: Tree, opened: Mapping[str, Assignment], shown: Mapping[str, str]) -> dict[str, Assignment]:
    """What is set in the tree now: unchanged assignments as they were, the others with the origin menuconfig."""
    minimal = tree.minimal()
    now: dict[str, Assignment] = {}
    for name, symbol in tree.symbols.items():
        is_set = symbol.choice.user_selection is symbol if symbol.choice else symbol.user_value is not None
        if not is_set or not symbol.visibility:
            continue
        value = symbol.str_value
        if name in opened and opened[name].value == value:
            now[name] = opened[name]
        elif value != shown[name] or name in minimal:  # else it was changed and changed back
            now[name] = Assignment(name, value, ORIGIN)
    return now


# The three below put our rules into the module that kconfiglib ships. The process shows one menu and ends.


def _check_floats(menuconfig: Any, tree: Tree) -> None:
    check, describe_range = menuconfig._check_valid, menuconfig._range_info

    def check_valid(symbol: Any, text: str) -> bool:
        reason = tree.fault(symbol.name, text)
        if reason:
            menuconfig._error(f"{symbol.name}={text}: {reason}")
        return not reason and bool(check(symbol, text))

    def range_info(symbol: Any) -> str | None:
        bounds = tree.bounds.get(symbol.name)
        return f"Range: {bounds}" if bounds else describe_range(symbol)

    menuconfig._check_valid = check_valid
    menuconfig._range_info = range_info


def _save_through(menuconfig: Any, path: Path, write_pair: Callable[[str], str]) -> None:
    """What is saved as `path` goes through `write_pair`; other files get what kconfiglib writes."""
    save = menuconfig._try_save

    def try_save(write: Callable[[str], str], filename: str, description: str) -> str | None:
        ours = description == "configuration" and Path(filename).absolute() == path.absolute()
        message: str | None = save(write_pair if ours else write, filename, description)
        return message

    menuconfig._try_save = try_save


def _show_ours(menuconfig: Any, dropped: Sequence[str]) -> None:
    """First what could not be taken along. No symbol is marked as new: a default is not news."""
    start, describe = menuconfig._init, menuconfig._node_str

    def init() -> None:
        start()
        if dropped:
            more = [f"and {len(dropped) - SHOWN_LINES} more"] if len(dropped) > SHOWN_LINES else []
            menuconfig._msg("Not taken along", "\n".join([*dropped[:SHOWN_LINES], *more]))

    menuconfig._init = init
    menuconfig._node_str = lambda node: describe(node).replace(" (NEW)", "")
