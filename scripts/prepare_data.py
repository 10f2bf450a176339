"""`make data`: prepare the data that is configured, check it against its hashes, and say what is there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lib import errors, kconf, options


def main() -> int:
    kconf.only(os.environ, "data", "O", symbols=True)
    base = kconf.folder(options.ROOT, os.environ) / options.DOTCONFIG
    asked = kconf.overrides(options.ROOT, os.environ, base)
    resolved = kconf.resolve(options.ROOT, base=base if base.exists() else None, assignments=asked)
    opts = options.Options(str(resolved.values["MODEL"]), resolved)
    if opts.get("tokenizer"):
        from lib.data import text

        print(text.check(opts.fill(text.Source), root=options.ROOT))
    else:
        from lib.data import images

        size = opts.values.get(f"{opts.model.upper()}_IMAGE_SIZE", images.LENET_SIZE)
        print(images.check(opts.fill(images.Source), size=int(size), root=options.ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
