"""kconfiglib's menuconfig under our rules: what it says about values, files and what it dropped fits the terminal."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from lib.kconf.draft import Draft
from lib.options import Faults


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
    if missing := _missing_locale():
        raise Faults([f"menuconfig: the locale {missing} is not installed; try LC_ALL=C.UTF-8 make menuconfig"])


def show(draft: Draft) -> None:
    """Shows the menu until the user leaves it. The process shows one menu and ends."""
    import menuconfig  # kconfiglib's

    def check_valid(symbol: Any, text: str) -> bool:
        refusal = draft.refusal(symbol.name, text)
        if refusal:
            menuconfig._error(refusal)
        return not refusal

    draft.govern(menuconfig)
    menuconfig._check_valid = check_valid
    _say_what_was_dropped(menuconfig, draft)
    _keep_copies_apart(menuconfig, draft)
    _fit_text(menuconfig)
    menuconfig.menuconfig(draft)


def _missing_locale() -> str:
    """The first locale of the environment that this machine lacks; "" when all are there."""
    import locale

    try:
        locale.setlocale(locale.LC_ALL, "")
    except locale.Error:
        for name in ("LC_ALL", *sorted(name for name in os.environ if name.startswith("LC_")), "LANG"):
            try:
                locale.setlocale(locale.LC_CTYPE, os.environ.get(name, "C"))
            except locale.Error:
                return os.environ[name]
    return ""


def _say_what_was_dropped(menuconfig: Any, draft: Draft) -> None:
    """In a box: when the menu appears, and after another file was loaded in it."""
    start = menuconfig._init

    def tell() -> None:
        if draft.dropped:
            menuconfig._msg("Not taken along", draft.dropped_text())

    def init() -> None:
        start()
        tell()

    menuconfig._init = init
    menuconfig._load_dialog = draft.telling(menuconfig._load_dialog, tell)


def _keep_copies_apart(menuconfig: Any, draft: Draft) -> None:
    """After a copy was saved somewhere, .config is still to be saved."""
    dialog = menuconfig._save_dialog

    def save_dialog(save: Callable[[str], str], filename: str, description: str) -> str | None:
        saved: str | None = dialog(save, filename, description)
        return saved if saved and (save == draft.write_min_config or draft.is_home(saved)) else None

    menuconfig._save_dialog = save_dialog


def _fit_text(menuconfig: Any) -> None:
    """Boxes break long lines; characters that the terminal's locale lacks become question marks instead of errors."""
    draw = menuconfig._safe_addstr

    def msg(title: str, text: str) -> None:
        width = max(menuconfig._stdscr.getmaxyx()[1] - 4, 16)
        lines = [wrapped for line in text.split("\n") for wrapped in textwrap.wrap(line, width) or [""]]
        menuconfig._key_dialog(title, "\n".join(lines), " \n")

    def safe_addstr(window: Any, *args: Any) -> None:
        draw(window, *(_drawable(arg, window.encoding) if isinstance(arg, str) else arg for arg in args))

    menuconfig._msg = msg
    menuconfig._safe_addstr = safe_addstr


def _drawable(text: str, encoding: str) -> str:
    return text.replace("\0", "?").encode(encoding, "replace").decode(encoding)
