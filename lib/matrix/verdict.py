"""How a trainer ended, told from its exit status and the end of what it printed: why, and is it worth another try?"""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["done", "error", "killed", "memory", "timeout", "result", "stopped"]
EXPLAINED = 2  # the exit status of a trainer that said in one line what the user can mend
OF_A_SHELL = 128  # and the signal's number, as the status of what a signal ended
TAIL = 1 << 16  # bytes of the output that are looked at
LONGEST = 300  # characters of a reason
NO_MEMORY = re.compile(r"out of memory|OutOfMemory|MemoryError|[Cc](annot|an't) allocate memory|bad_alloc")
OOM_COUNTS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


class Verdict(NamedTuple):
    """`error` and `result` would come again, `killed` need not, and `memory` may do better alone."""

    kind: Kind
    why: str = ""


def of(status: int, output: str, *, has_result: bool, corrupt: bool, oom_killed: bool) -> Verdict:
    """The verdict on a trainer that ended by itself.

    `status` is that of `subprocess`, `output` the end of what it printed; `corrupt`: its result.json can't be read.
    `oom_killed`: the kernel has killed somebody meanwhile, to have memory.
    """
    if has_result:  # it comes last: whatever happened then happened to a cell that was done
        return Verdict("done")
    said = _said(output, status)
    if NO_MEMORY.search(said):
        return Verdict("memory", said)
    number = -status if status < 0 else status - OF_A_SHELL
    if 0 < number < signal.NSIG:
        name = signal.Signals(number).name if number in signal.valid_signals() else f"signal {number}"
        if number == signal.SIGKILL and oom_killed:
            return Verdict("memory", "killed by the kernel, which needed the memory (SIGKILL)")
        return Verdict("killed", f"ended by {name}" + (f": {said}" if said else ""))
    if status:
        return Verdict("error", said or f"exit status {status}, and nothing said")
    return Verdict("result", "result.json can't be read" if corrupt else "exit status 0, but no result.json")


def tail(path: Path) -> str:
    """The end of the file, which may not be there."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def oom_kills() -> int:
    """How often the kernel has killed a process of this machine or container for its memory; 0 where it can't tell."""
    for path in OOM_COUNTS:
        try:
            if found := re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE):
                return int(found[1])
        except OSError:
            continue
    return 0


def _said(output: str, status: int) -> str:
    """The error's own line: that of the last traceback, or what followed `error:`."""
    lines = output.splitlines()
    explained = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if status == EXPLAINED and explained:
        return "; ".join(explained)[:LONGEST]
    starts = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    after = lines[starts[-1] + 1 :] if starts else []
    named = next((line for line in after if re.match(r"[A-Za-z_][\w.]*(:|$)", line)), "")
    if not starts:  # of a file that can't be parsed there is none
        named = next((line for line in reversed(lines) if re.match(r"\w*Error: ", line)), "")
    return (named or "; ".join(explained))[:LONGEST]
