#!/bin/sh
# ask-and-remove.sh FOLDER: delete FOLDER after a yes, or at once with YES=1 in the environment.
set -eu
folder=$1
if ! test -d "$folder"; then
	echo "$folder/: nothing there"
	exit 0
fi
if test "${YES:-}" != 1; then
	if ! test -t 0; then
		echo "error: $folder/ is only deleted after a yes. Without a terminal give YES=1" >&2
		exit 2
	fi
	printf 'Delete %s/ (%s)? [y/N] ' "$folder" "$(du -sh "$folder" | cut -f1)"
	read -r answer
	test "$answer" = y || exit 0
fi
rm -rf "./$folder"
