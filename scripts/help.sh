#!/bin/sh
# help.sh MAKEFILE: its targets with their ## comments, by section, and the variables.
set -eu
awk '
/^##@ / { printf "\n%s\n", substr($0, 5) }
/^[^#\t]*:.*## / {
	target = $0; text = $0
	sub(/:.*/, "", target); sub(/.*## /, "", text)
	gsub(/%/, "<name>", target)
	if (target == "$(TRACKERS") target = "<tracker>-test"
	sub(/ \$\(SHOWN/, " <tracker>-show", target)
	if (length(target) > 16) printf "  %s\n  %-16s ", target, ""
	else printf "  %-16s ", target
	print text
}' "$1"
cat <<'TEXT'

Variables
  DEFCONFIG=       a defconfig by name or path, with +fragments
  TRACKER=         none, both, all, or names with commas: trackio,wandb,mlflow (make list-trackers)
  SYMBOL=value     any symbol of the configuration (LEARNING_RATE=0.01, MODEL=gpt2); on train for that run alone
  NPROC=           so many processes on the CPU, for train, plan and eval; GPUS= is a symbol (-1: all that are visible)
  RUN=             a run, for reproduce, eval, sample, export, gpu-report, gputop, tracker-sync and the trackers' tests:
                   its folder, project/run or name
  DRY_RUN=1        tracker-sync only lists what would go
  RESUME=          n: start anew; a run: go on with that one
  SYM=             a symbol, or several with commas, for showconfig
  A= B=            what diffconfig compares
  O=               a folder for .config and config.py, to configure and to train from; for what export writes
  PYTHON= VENV=    the interpreter for .venv; an environment of your own instead of .venv
  T=               what test passes on to pytest: T="-k journal"
  YES=1            runs-clean and data-clean without asking
  V=1              show the commands

The first time: `make`. Then `make trackio-show`.
TEXT
