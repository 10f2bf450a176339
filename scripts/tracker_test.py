"""`make <tracker>-test`: made-up curves through the real client, read back with its own reader and compared."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lib import errors, launch, options


def main() -> int:
    return launch.tracker_test(options.ROOT, os.environ, sys.argv[1])


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
