#!/bin/sh
# ask-and-remove.sh FOLDER: delete FOLDER after a yes, or at once with YES=1 on make's command line (listed in KCONF_CLI).
set -eu
folder=$1
if ! test -d "$folder"; then
	echo "$folder/: nothing there"
	exit 0
fi
case " ${KCONF_CLI:-} " in *" YES "*) yes=${YES:-} ;; *) yes= ;; esac
if test "$yes" != 1; then
	if ! test -t 0; then
		echo "error: $folder/ is only deleted after a yes. Without a terminal give YES=1" >&2
		exit 2
	fi
	printf 'Delete %s/ (%s)? [y/N] ' "$folder" "$(du -sh "$folder" | cut -f1)"
	read -r answer
	test "$answer" = y || exit 0
fi
rm -rf "./$folder/"
