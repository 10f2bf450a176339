# Kilter: every verb. One line a recipe; the work is in scripts/ and lib/. `make help` prints the ## comments.

# A VENV of the user's own (conda, a GPU image) is used as it is; .venv is ours to make. Only make's command line counts.
ifneq ($(origin VENV),command line)
  VENV := .venv
  READY := .venv/.ready
  READY_DEV := .venv/.ready-dev
endif
ifneq ($(origin PYTHON),command line)
  PYTHON := python3
endif
# Values reach the recipes through the environment, never as text: a quote or a ; in one stays what it is.
export PYTHON VENV T
PY := "$$VENV/bin/python"
CONFIGURE = $(PY) scripts/configure.py
TRACKERS := trackio wandb tensorboard

# The names of what was set on make's command line; their values reach the recipes through the environment. One by one,
# because make 4.3 loses some when .VARIABLES is filtered as a whole (savannah 59093).
export KCONF_CLI := $(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $v))),$v))
# As typed: make would expand a $ in them, and run a $(shell …).
$(foreach v,$(KCONF_CLI),$(eval override $v := $$(value $v))$(eval export $v))
export PYTHONUTF8 = 1

V ?= 0
Q := $(if $(filter 1,$(V)),,@)
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := train
.DELETE_ON_ERROR:

##@ Train
.PHONY: train
train: $(READY) ## Train what is configured; goes on with an unfinished run of the same configuration [RESUME=n|RUN]
	$(Q)$(PY) scripts/train.py

##@ Configure
.PHONY: menuconfig
menuconfig: $(READY) ## Choose in a menu
	$(Q)$(CONFIGURE) menuconfig
.PHONY: defconfig
defconfig: $(READY) ## Load defaults, or DEFCONFIG=name|path|name+fragment, then TRACKER= and any SYMBOL=value
	$(Q)$(CONFIGURE) defconfig
.PHONY: olddefconfig
olddefconfig: $(READY) ## Bring .config up to date: new symbols get their default, what no longer fits is dropped and named
	$(Q)$(CONFIGURE) olddefconfig
.PHONY: savedefconfig
savedefconfig: $(READY) ## Write the configuration as a minimal defconfig to DEFCONFIG=path, or to ./defconfig
	$(Q)$(CONFIGURE) savedefconfig
.PHONY: list-defconfigs
list-defconfigs: $(READY) ## Every defconfig, with what it sets
	$(Q)$(CONFIGURE) list-defconfigs

##@ Trackers
.PHONY: $(TRACKERS:%=%-test)
$(TRACKERS:%=%-test): %-test: $(READY) ## Send made-up curves through the real client, read them back, compare [RUN=folder: that run]
	$(Q)$(PY) scripts/tracker_test.py $*
.PHONY: trackio-show trackio-view
trackio-show trackio-view: $(READY) ## Open the Trackio dashboard on TRACKIO_PORT
	$(Q)$(PY) scripts/trackio_show.py
.PHONY: tensorboard-show
tensorboard-show: $(READY) ## Open TensorBoard over all runs
	$(Q)"$$VENV/bin/tensorboard" --logdir runs
.PHONY: wandb-sync
wandb-sync: $(READY) ## Send the offline W&B runs; asks for a login
	$(Q)"$$VENV/bin/wandb" sync runs/*/*/wandb/offline-run-*
.PHONY: tracker-sync
tracker-sync: $(READY) ## Send to the trackers of RUN=folder what they have not taken yet
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
bench: $(READY) ## Measure against the named peers
	$(Q)$(PY) bench/log_call.py
.PHONY: trackers
trackers: $(READY) ## Install the other trackers too
	$(Q)$(PY) -m pip install -r requirements-trackers.txt

##@ Clean
.PHONY: clean
clean: ## Remove caches; never results
	$(Q)rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis && find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
.PHONY: mrproper
mrproper: clean ## clean, and remove the configuration
	$(Q)rm -f .config .config.old .config.lock config.py
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
