"""Runs `ROOT/scripts/configure.py guiconfig`, and does in its window what standard input says: windowed.py ROOT

A request is a line of JSON, [action, text]; its answer a line behind `answer: `, null when there is nothing such.
`texts` lists what the window shows, `press` means a button, `choose` a line of a list, `fill` an entry; of several of a
kind the one in the newest dialog, and `close` the window.
"""

from __future__ import annotations

import json
import runpy
import sys
import threading
import tkinter
from collections.abc import Iterator
from typing import Any


def serve() -> None:
    for line in sys.stdin:
        action, text = json.loads(line)
        try:
            answer = ACTIONS[action](text)
        except (AttributeError, RuntimeError, tkinter.TclError):  # no window yet, or it is changing just now
            answer = None
        print(f"answer: {json.dumps(answer)}", flush=True)


def tcl(*words: Any) -> Any:
    """Runs on the main thread, in between what happens in the window."""
    return tkinter._default_root.tk.call(*words)  # type: ignore[attr-defined]


def texts(_: str) -> list[str]:
    return [text_of(widget) for widget in shown()]


def press(text: str) -> bool | None:
    for widget in shown():
        if tcl("winfo", "class", widget) == "TButton" and text_of(widget) == text:
            return soon(f"{widget} invoke")
    return None


def fill(text: str) -> bool | None:
    for widget in shown():
        if tcl("winfo", "class", widget) == "TEntry":
            tcl(widget, "delete", 0, "end")
            tcl(widget, "insert", 0, text)
            return True
    return None


def choose(text: str) -> bool | None:
    tree = next(widget for widget in shown() if tcl("winfo", "class", widget) == "Treeview")
    for item in items(tree):
        if text in tcl(tree, "item", item, "-text"):
            for words in (("see", item), ("selection", "set", item), ("focus", item)):
                tcl(tree, *words)
            tcl("focus", "-force", tree)
            return soon(f"event generate {tree} <space>")
    return None


def close(_: str) -> bool | None:
    """As the cross in the corner does; not while a dialog is open."""
    return None if tcl("grab", "current") else soon("eval [wm protocol . WM_DELETE_WINDOW]")


def soon(script: str) -> bool:
    """Later, because what opens a dialog returns only when that is closed."""
    tcl("after", 1, script)
    return True


def shown(above: str = ".") -> Iterator[str]:
    """What can be seen, the newest first."""
    for child in reversed(tcl("winfo", "children", above)):
        yield from shown(str(child))
    if tcl("winfo", "viewable", above):
        yield above


def text_of(widget: str) -> str:
    if str(tcl("winfo", "toplevel", widget)) == widget:
        return str(tcl("wm", "title", widget))
    match tcl("winfo", "class", widget):
        case "Treeview":
            return "\n".join(str(tcl(widget, "item", item, "-text")) for item in items(widget))
        case "TEntry":
            return str(tcl(widget, "get"))
        case "TButton" | "TLabel":
            return str(tcl(widget, "cget", "-text"))
    return ""


def items(tree: str, above: str = "") -> Iterator[str]:
    for item in tcl(tree, "children", above):
        yield str(item)
        yield from items(tree, str(item))


ACTIONS = {"texts": texts, "press": press, "fill": fill, "choose": choose, "close": close}

if __name__ == "__main__":
    script = f"{sys.argv[1]}/scripts/configure.py"
    sys.argv = [script, "guiconfig"]
    threading.Thread(target=serve, daemon=True).start()
    runpy.run_path(script, run_name="__main__")
