"""`make trackio-show`: the Trackio dashboard of this project on TRACKIO_PORT."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lib import errors, launch, options


def main() -> int:
    return launch.trackio_show(options.ROOT, os.environ)


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
