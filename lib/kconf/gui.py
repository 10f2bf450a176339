"""kconfiglib's guiconfig under our rules: a window that checks, opens and saves as menuconfig does."""

from __future__ import annotations

import re
import signal
from typing import Any

from lib.kconf.draft import Draft
from lib.options import Faults

PULSE_MS = 100


def show(draft: Draft) -> None:
    """Shows the window until the user closes it; raises Faults where there can be none, KeyboardInterrupt on Ctrl-C."""
    try:
        import guiconfig  # kconfiglib's
    except ImportError:
        raise Faults(["guiconfig needs Python's tkinter (Debian: python3-tk); make menuconfig needs none"]) from None
    guiconfig.re = re  # its search counts on tkinter to hand it on, which newer Pythons do not
    draft.govern(guiconfig)
    _check_values(guiconfig, draft)
    _say_what_was_dropped(guiconfig, draft)
    _keep_copies_apart(guiconfig, draft)
    interrupts = _heed_ctrl_c(guiconfig)
    try:
        guiconfig.menuconfig(draft)
    except guiconfig.TclError as error:
        raise Faults([f"guiconfig cannot open a window: {error}. make menuconfig needs none"]) from None
    if interrupts:
        raise KeyboardInterrupt


def _check_values(guiconfig: Any, draft: Draft) -> None:
    def check_valid(dialog: Any, entry: Any, symbol: Any, text: str) -> bool:
        refusal = draft.refusal(symbol.name, text)
        if refusal:
            guiconfig.messagebox.showerror("Bad value", refusal, parent=dialog)
            entry.focus_set()
        return not refusal

    guiconfig._check_valid = check_valid


def _say_what_was_dropped(guiconfig: Any, draft: Draft) -> None:
    """In a box: when the window appears, and after another file was opened in it."""
    begin = guiconfig._load_config

    def tell() -> None:
        if draft.dropped:
            guiconfig.messagebox.showwarning("Not taken along", draft.dropped_text(), parent=guiconfig._root)

    def load_config() -> bool:
        guiconfig._root.after(1, tell)  # once the window is there
        return bool(begin())

    guiconfig._load_config = load_config
    guiconfig._open = draft.telling(guiconfig._open, tell)


def _keep_copies_apart(guiconfig: Any, draft: Draft) -> None:
    """After a copy was saved somewhere, .config is still the file to save to."""
    dialog = guiconfig._save_as

    def save_as() -> None:
        dialog()
        guiconfig._conf_filename = str(draft.path)

    guiconfig._save_as = save_as


def _heed_ctrl_c(guiconfig: Any) -> list[int]:
    """Ctrl-C in the terminal closes the window; returns where the signals that came are listed."""
    interrupts: list[int] = []
    create = guiconfig._create_ui

    def create_ui() -> None:
        create()
        root = guiconfig._root

        def leave(number: int, _: Any) -> None:
            interrupts.append(number)
            root.report_callback_exception = lambda *_: None  # dialogs that were open miss their window
            root.destroy()

        def pulse() -> None:
            root.after(PULSE_MS, pulse)

        signal.signal(signal.SIGINT, leave)
        pulse()  # Tk sleeps while nothing happens in the window, and Python sees no signal meanwhile

    guiconfig._create_ui = create_ui
    return interrupts
