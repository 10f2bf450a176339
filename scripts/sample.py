"""`make sample RUN=…`: a text from a trained run [PROMPT= TOKENS= TEMPERATURE= TOP_K= SEED=]."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lib import errors, options, trained


def main() -> int:
    trained.sample(options.ROOT, os.environ)


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
