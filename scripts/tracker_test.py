"""`make <tracker>-test`: made-up curves through the real client, read back with its own reader and compared."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lib import errors, kconf, options
from lib.track import check


def main() -> int:
    return check.main(sys.argv[1], kconf.typed(os.environ, "RUN"), options.ROOT)


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
