"""`make defconfig`, `make menuconfig` and their kin:   configure.py VERB [NAME=value ...]"""

import gc
import os
import sys
from pathlib import Path

gc.disable()  # a process of 50 ms has nothing worth collecting, and looking for it takes 3 of them
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lib import errors, kconf, options


def main() -> int:
    return kconf.configure(options.ROOT, os.environ, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
