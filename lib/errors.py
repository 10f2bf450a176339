"""What the user can mend: one line that names the thing, the value, the rule and the next step, and exit status 2."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import TextIO

BROKEN_PIPE, INTERRUPTED = 141, 130  # 128 and the signal's number, as a shell has it


class Refused(Exception):
    """Input, a machine or a folder that Kilter can't work with; the message is the line that the user reads."""


def guarded(main: Callable[[], int]) -> int:
    """Run `main`; a `Refused` becomes its lines on stderr and exit status 2, Ctrl-C 130, both without a traceback.

    What the terminal's character set lacks is printed as its code.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return main()
    except BrokenPipeError:  # who read our output has seen enough
        silence(sys.stdout)
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except PermissionError as problem:
        if problem.filename is None:  # no file that the user could mend
            raise
        print(f"error: {problem.filename}: {problem.strerror}. Change its mode or its owner", file=sys.stderr)
        return 2
    except Refused as refusal:
        for line in str(refusal).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2


def silence(stream: TextIO) -> None:
    """Let what is written to `stream`, whose reader is gone, vanish from now on; also what its buffer still holds."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
