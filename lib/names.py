"""What things are called: a project, a run, the trackers that `TRACKER=` means."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lib.files import write_whole

if TYPE_CHECKING:
    from datetime import datetime

LONGEST_NAME = 100  # characters; a file system takes 255 bytes
FOLDERS = ("TRACKER_PROJECT", "TRACKER_RUN_NAME")  # symbols whose value is the name of a folder
BOTH = ("wandb", "trackio")
CUSTOM = "custom"  # the tracker that is the user's own class, CUSTOM_CLASS; it comes with no package
CHECKSUM_FILE = ".project-checksum"  # in the root, ignored by git: "<checksum> <directory>"


def project(model: str, root: Path) -> str:
    """`lenet5-a3f2c`: the model, and five hex digits that stand for this host and directory.

    The digits are kept in a file once made, so that a new address from DHCP does not rename the project. A copy of the
    directory gets its own, since the file also says where it was made.
    """
    root = root.resolve()
    return f"{model}-{_remembered(root) or _remember(root, _checksum(root))}"


def run_name(model: str, optimizer: str, when: datetime) -> str:
    """`lenet5_adamw_20261121-101500`."""
    return f"{model}_{optimizer}_{when:%Y%m%d-%H%M%S}"


def fault(text: str) -> str:
    """Why `text` can't name a project or a run, whose folder has the same name; "" when it can."""
    if len(text) > LONGEST_NAME:
        return f"a name has at most {LONGEST_NAME} characters, this has {len(text)}"
    if "/" in text or "\\" in text or text.startswith((".", "-")) or text != text.strip() or not text.isprintable():
        return "a name is a folder's: no / or \\, no leading dot, dash or blank, printable characters. Choose another"
    return ""


def near(word: str, known: Iterable[str]) -> str:
    """`; did you mean sgd?`, whatever the case and the dashes of what was typed; "" when nothing known is like it."""
    return f"; did you mean {found[0]}?" if (found := close(word, known)[:1]) else ""


def close(word: str, known: Iterable[str]) -> list[str]:
    """What is known and like `word`, the nearest first."""
    from difflib import get_close_matches  # only those who mistype pay for it

    spelled = {name.lower().replace("_", "-"): name for name in known}
    return [spelled[name] for name in get_close_matches(word.lower().replace("_", "-"), list(spelled))]


def installed(tracker: str) -> bool:
    """Whether the tracker's package is there. A mere folder of that name (W&B makes `./wandb`) does not count."""
    from importlib.util import find_spec  # only those who track pay for it

    spec = find_spec("accelerate" if tracker == CUSTOM else tracker)
    return spec is not None and spec.origin is not None


def trackers(text: str, known: Sequence[str], *, available: Callable[[str], bool] = installed) -> set[str]:
    """The trackers that `none`, `both`, `all` (every installed one, not the user's own) or a comma list stand for.

    Raises ValueError with the nearest right name.
    """
    items = _items(text)
    for item in items:
        if item not in {"none", "both", "all", *known}:
            hint = near(item, [*known, "none", "both", "all"])
            raise ValueError(f"unknown tracker {item!r}{hint} (known: {', '.join(known)})")
    if "none" in items and len(items) > 1:
        raise ValueError("'none' does not go with other names")
    return {tracker for tracker in known if _means(items, tracker, available)}


def enabled(tracker: str, text: str, *, available: Callable[[str], bool] = installed) -> bool:
    """Whether `TRACKER=text` switches this one tracker on. For shells: what is not understood is no."""
    return _means(_items(text), tracker, available)


def set_on_command_line(name: str, environ: dict[str, str]) -> bool:
    """Whether the variable was set on make's command line; called from a shell directly, whether it is set at all."""
    if "KCONF_CLI" in environ:  # the Makefile lists here what came on its command line
        return name in environ["KCONF_CLI"].split()
    return name in environ


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",")]


def _means(items: list[str], tracker: str, available: Callable[[str], bool]) -> bool:
    return (
        tracker in items
        or ("both" in items and tracker in BOTH)
        or ("all" in items and tracker != CUSTOM and available(tracker))
    )


def _checksum(root: Path) -> str:
    import hashlib  # once in the life of a checkout, as socket
    import socket

    text = f"{socket.gethostname().partition('.')[0]} {_address()} {root}"
    return hashlib.md5(os.fsencode(text), usedforsecurity=False).hexdigest()[:5]


def _address() -> str:
    """The IPv4 address that packets leave from; none are sent. Empty without a network."""
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address that documentation reserves (RFC 5737)
        except OSError:
            return ""
        address: str = probe.getsockname()[0]
    return "" if address.startswith("127.") else address


def _remembered(root: Path) -> str | None:
    try:
        checksum, _, place = (root / CHECKSUM_FILE).read_text(encoding="utf-8", errors="surrogateescape").partition(" ")
    except OSError:
        return None
    return checksum if place.rstrip("\n") == str(root) and re.fullmatch("[0-9a-f]{5}", checksum) else None


def _remember(root: Path, checksum: str) -> str:
    with contextlib.suppress(OSError):  # a read-only checkout: the same digits are computed again next time
        write_whole(root / CHECKSUM_FILE, f"{checksum} {root}\n")
    return checksum
