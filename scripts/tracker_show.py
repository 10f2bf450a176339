"""`make <tracker>-show`: the tracker's own pages, served on this machine until Ctrl-C."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lib import errors, launch, options


def main() -> int:
    return launch.tracker_show(options.ROOT, os.environ, sys.argv[1])


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
