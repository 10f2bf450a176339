"""`make export RUN=…`: the best weights of a run, for other programs [O=folder]."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lib import errors, options, trained


def main() -> int:
    return trained.export(options.ROOT, os.environ)


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
