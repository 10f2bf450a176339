"""`make gpu-report`: what the GPUs of a run did, as pictures and as a text [RUN=run,…]."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lib import errors, options
from lib.report import gpu


def main() -> int:
    return gpu.main(options.ROOT, os.environ)


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
