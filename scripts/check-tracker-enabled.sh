#!/bin/sh
# Prints y when TRACKER=LIST switches the tracker on, else n.   Usage: check-tracker-enabled.sh wandb "$TRACKER"
# Names match whole; none, both (wandb,trackio), all (every installed one) and comma lists are understood.
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
test -x .venv/bin/python && python=.venv/bin/python # `all` asks which packages are installed, and that is where
exec "$python" -c '
import sys
from lib.names import enabled
if len(sys.argv) < 2:
    print("usage: check-tracker-enabled.sh NAME LIST", file=sys.stderr)
    sys.exit(2)
print("y" if enabled(sys.argv[1], "".join(sys.argv[2:])) else "n")
' "$@"
