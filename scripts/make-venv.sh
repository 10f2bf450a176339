#!/bin/sh
# make-venv.sh FOLDER REQUIREMENTS: make the virtual environment FOLDER with $PYTHON when it is not there, and install.
set -eu
folder=$1 requirements=$2 python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
	echo "error: PYTHON=$python: Python 3.11 or newer is needed. Install it, or give PYTHON=/path/to/python3" >&2
	exit 2
fi
test -x "$folder/bin/python" || "$python" -m venv "$folder"
echo "Installing $requirements into $folder (the first time: minutes, about 2 GB on disk)"
exec "$folder/bin/python" -m pip install --disable-pip-version-check --no-input -r "$requirements"
