"""`make tracker-sync`: send to the trackers of RUN, or of every run, what they have not taken yet [--dry-run]."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lib import errors, launch, options


def main() -> int:
    return launch.tracker_sync(options.ROOT, os.environ, dry_run="--dry-run" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
