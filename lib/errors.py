"""What the user can mend: one line that names the thing, the value, the rule and the next step, and exit status 2."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import TextIO


class Refused(Exception):
    """Input, a machine or a folder that Kilter can't work with; the message is the line that the user reads."""


def guarded(main: Callable[[], int]) -> int:
    """Run `main`; a `Refused` becomes its lines on stderr and exit status 2, Ctrl-C 130, both without a traceback."""
    try:
        return main()
    except BrokenPipeError:  # who read our output has seen enough
        silence(sys.stdout)
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Refused as refusal:
        for line in str(refusal).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2


def silence(stream: TextIO) -> None:
    """Let what is written to `stream`, whose reader is gone, vanish from now on; also what its buffer still holds."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
