"""`make test_matrix`, `make continue` and their kin: many trainings, each once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lib import errors, options
from lib.matrix import verbs


def main() -> int:
    return verbs.perform(options.ROOT, os.environ, sys.argv[1])


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
