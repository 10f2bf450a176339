#!/bin/sh
# Prints y when the variable was set on make's command line, else n.   Usage: check-cli-set-var.sh NAME
# Called outside make: y when it is set in the environment.
cd "$(dirname "$0")/.." || exit 2
exec "${PYTHON:-python3}" -c '
import os, sys
from lib.names import set_on_command_line
if len(sys.argv) != 2:
    print("usage: check-cli-set-var.sh NAME", file=sys.stderr)
    sys.exit(2)
print("y" if set_on_command_line(sys.argv[1], dict(os.environ)) else "n")
' "$@"
