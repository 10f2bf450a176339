"""`make tracker-sync RUN=…`: send to a run's trackers what they have not taken yet."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lib import errors, kconf, options
from lib.track import sync


def main() -> int:
    kconf.only(os.environ, "tracker-sync", "RUN")
    return sync.main(kconf.typed(os.environ, "RUN"), options.ROOT / "runs")


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
