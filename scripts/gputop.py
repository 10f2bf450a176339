"""`make gputop`: what the GPUs of the running job do now; `q` leaves [RUN=run]."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lib import errors, options, top


def main() -> int:
    return top.main(options.ROOT, os.environ)


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
