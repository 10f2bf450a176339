"""`make eval`: validate the best weights of RUN again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lib import errors, launch, options


def main() -> int:
    launch.evaluate(options.ROOT, os.environ)


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
