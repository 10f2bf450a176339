"""`make plan`: what training would be, without training."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lib import errors, launch, options


def main() -> int:
    launch.plan(options.ROOT, os.environ)


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
