"""What the user can mend: one line that names the thing, the value, the rule and the next step, and exit status 2."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable


class Refused(Exception):
    """Input, a machine or a folder that Kilter can't work with; the message is the line that the user reads."""


def guarded(main: Callable[[], int]) -> int:
    """Run `main`; a `Refused` becomes its lines on stderr and exit status 2, Ctrl-C 130, both without a traceback."""
    try:
        return main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Refused as refusal:
        for line in str(refusal).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
