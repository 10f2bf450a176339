# Kilter: every verb. One line a recipe; the work is in scripts/ and lib/. `make help` prints the ## comments.

# A VENV of the user's own (conda, a GPU image) is used as it is; .venv is ours to make. Only make's command line counts.
ifneq ($(origin VENV),command line)
  VENV := .venv
  READY := .venv/.ready
  READY_DEV := .venv/.ready-dev
  READY_BENCH := .venv/.ready-bench
endif
ifneq ($(origin PYTHON),command line)
  PYTHON := python3
endif
# Values reach the recipes through the environment, never as text: a quote or a ; in one stays what it is.
export PYTHON VENV T
PY := "$$VENV/bin/python"
TRACKERS := trackio wandb tensorboard mlflow aim comet_ml clearml dvclive swanlab goodseed
SHOWN := tensorboard mlflow aim goodseed

ASKING := menuconfig nconfig guiconfig config oldconfig
LOOKING := list-defconfigs listnewconfig helpnewconfig diffconfig showconfig checkconfig
# Each defconfig two ways and each fragment has a target of its own, so that Tab completes it.
# Those that make would misread are left to DEFCONFIG=.
ODD := ; : = $$ & | < > ( ) ' " \# % * ? ` \\
LYING_READY := $(notdir $(wildcard defconfigs/* */defconfigs/*))
LYING_READY := $(foreach name,$(LYING_READY),$(if $(strip $(foreach sign,$(ODD),$(findstring $(sign),$(name)))),,$(name)))
DEFCONFIGS := $(filter-out %.config,$(LYING_READY))
MAKING := defconfig setconfig olddefconfig savedefconfig alldefconfig allnoconfig allyesconfig randconfig \
	$(DEFCONFIGS:%=%_defconfig) $(DEFCONFIGS:%=defconfig-%) $(filter %.config,$(LYING_READY))

# The names of what was set on make's command line; their values reach the recipes through the environment. One by one,
# because make 4.3 loses some when .VARIABLES is filtered as a whole (savannah 59093).
export KCONF_CLI := $(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $v))),$v))
# As typed: make would expand a $ in them, and run a $(shell …).
$(foreach v,$(KCONF_CLI),$(eval override $v := $$(value $v))$(eval export $v))
export PYTHONUTF8 = 1
# What was asked for, the same way: a file may have any name.
override GOAL = $@
export GOAL

V ?= 0
Q := $(if $(filter 1,$(V)),,@)
QUIET := $(if $(findstring s,$(firstword -$(MAKEFLAGS))),>/dev/null)
MAKEFLAGS += --no-print-directory
.NOTPARALLEL:
.DEFAULT_GOAL := train
.DELETE_ON_ERROR:

##@ Train
.PHONY: train
train: $(READY) ## Train what is configured; goes on with an unfinished run of the same configuration [RESUME=n|RUN]
	$(Q)$(PY) scripts/train.py
.PHONY: reproduce
reproduce: $(READY) ## Train the configuration of RUN=folder again: what differs now, and is the curve the same, bit by bit?
	$(Q)$(PY) scripts/reproduce.py

##@ Configure
.PHONY: $(ASKING) $(MAKING) $(LOOKING)
menuconfig nconfig: ## Choose in a menu
guiconfig: ## Choose in a window
config oldconfig: ## Answer questions in the terminal, about what .config does not have yet
defconfig: ## Load defaults, or DEFCONFIG=name|path|name+fragment+…, then TRACKER= and any SYMBOL=value
%_defconfig defconfig-%: ## The same by name; Tab completes it
%.config: ## Put a fragment on top of .config
setconfig: ## Change what SYMBOL=value … name, and nothing else
olddefconfig: ## Bring .config up to date: new symbols get their default, what no longer fits is dropped and named
savedefconfig: ## Write the configuration as a minimal defconfig to DEFCONFIG=path, or to ./defconfig
alldefconfig allnoconfig allyesconfig: ## Every switch at its default, off, on [KCONFIG_ALLCONFIG=file: but these]
randconfig: ## Switches and choices by chance [KCONFIG_SEED=n: the same again] [KCONFIG_ALLCONFIG=file]
list-defconfigs: ## Every defconfig and fragment, with what it sets
showconfig: ## The value, type, origin and dependencies of SYM=name, and what would set it; without it a line for each [RUN=]
listnewconfig helpnewconfig: ## What .config does not have yet, and its help
diffconfig: ## What differs from A= to B=: each a .config, a run or a defconfig; else .config.old to .config
checkconfig: ## Check the Kconfig files, every defconfig and every fragment
$(ASKING) $(LOOKING): $(READY)
	$(Q)$(PY) scripts/configure.py "$$GOAL"
$(MAKING): $(READY)
	$(Q)$(PY) scripts/configure.py "$$GOAL" $(QUIET)
%_defconfig: $(READY) FORCE
	$(Q)$(PY) scripts/configure.py "$$GOAL" $(QUIET)
defconfig-%: $(READY) FORCE
	$(Q)$(PY) scripts/configure.py "$$GOAL" $(QUIET)
%.config: $(READY) FORCE
	$(Q)$(PY) scripts/configure.py "$$GOAL" $(QUIET)
FORCE:

##@ Trackers
.PHONY: list-trackers $(TRACKERS:%=%-test)
list-trackers: $(READY) ## Which trackers there are, which are on, and what to install for the others
	$(Q)$(PY) scripts/list_trackers.py
$(TRACKERS:%=%-test): %-test: $(READY) ## Send made-up curves through the real client, read them back, compare [RUN=folder: that run]
	$(Q)$(PY) scripts/tracker_test.py $*
.PHONY: trackio-show trackio-view $(SHOWN:%=%-show)
trackio-show trackio-view $(SHOWN:%=%-show): $(READY) ## Open the tracker's own pages on this machine; Trackio's on TRACKIO_PORT
	$(Q)$(PY) scripts/tracker_show.py $@
.PHONY: wandb-sync
wandb-sync: $(READY) ## Send the offline W&B runs; asks for a login
	$(Q)find runs -type d -name 'offline-run-*' -prune -exec "$$VENV/bin/wandb" sync {} +
.PHONY: tracker-sync
tracker-sync: $(READY) ## Send what trackers have not taken, of each run that has ended or RUN=, also to TRACKER= [DRY_RUN=1: only say what]
	$(Q)$(PY) scripts/tracker_sync.py

##@ Develop
.PHONY: check
check: $(READY_DEV) lint types test ## Lint, types, tests: what CI runs
.PHONY: lint
lint: $(READY_DEV) ## Lint and format alone
	$(Q)$(PY) -m ruff check . && $(PY) -m ruff format --check .
.PHONY: types
types: $(READY_DEV) ## Types alone
	$(Q)$(PY) -m mypy
.PHONY: test
test: $(READY_DEV) ## The tests alone [T=-k word]
	$(Q)$(PY) -m pytest $$T
.PHONY: check-all
check-all: $(READY_DEV) lint types ## check, with the tests that take long
	$(Q)$(PY) -m pytest -m "slow or not slow"
.PHONY: bench
bench: $(READY_BENCH) ## Measure against the named peers
	$(Q)$(PY) bench/configure.py && $(PY) bench/log_call.py && $(PY) bench/tracked_training.py
.PHONY: trackers
trackers: $(READY) ## Install the other trackers too
	$(Q)$(PY) -m pip install -r requirements-trackers.txt

##@ Clean
.PHONY: clean
clean: ## Remove caches; never results
	$(Q)rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis && find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
.PHONY: mrproper
mrproper: clean ## clean, and remove the configuration [O=folder: the one there]
	$(Q)cd "$${O:-.}" && rm -f .config .config.old .config.lock config.py
.PHONY: distclean
distclean: mrproper ## mrproper, and remove the environment
	$(Q)rm -rf .venv
.PHONY: runs-clean data-clean
runs-clean data-clean: %-clean: ## Delete runs/, or data/; asks first [YES=1]
	$(Q)scripts/ask-and-remove.sh $*

##@ Help
.PHONY: help
help: ## This page
	$(Q)scripts/help.sh Makefile

.venv/.ready: requirements.txt requirements.lock
	$(Q)scripts/make-venv.sh .venv requirements.txt && touch $@
.venv/.ready-dev: requirements-dev.txt .venv/.ready
	$(Q)scripts/make-venv.sh .venv requirements-dev.txt && touch $@
.venv/.ready-bench: requirements-bench.txt .venv/.ready
	$(Q)scripts/make-venv.sh .venv requirements-bench.txt && touch $@
