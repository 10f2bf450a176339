#!/bin/sh
# Prints the project name of a model, such as gpt2-a3f2c.   Usage: generate-project-name.sh MODEL [PURPOSE]
# The purpose (`tracking` in documents) does not change the name.
cd "$(dirname "$0")/.." || exit 2
exec "${PYTHON:-python3}" -c '
import sys
from pathlib import Path
from lib.names import project
if not 1 <= len(sys.argv[1:]) <= 2 or not sys.argv[1]:
    print("usage: generate-project-name.sh MODEL [PURPOSE]", file=sys.stderr)
    sys.exit(2)
print(project(sys.argv[1], Path.cwd()))
' "$@"
