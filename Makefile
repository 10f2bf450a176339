# Kilter: every verb. One line a recipe; the work is in scripts/ and lib/. `make help` prints the ## comments.

# A VENV of the user's own (conda, a GPU image) is used as it is; .venv is ours to make. Only make's command line counts.
ifneq ($(origin VENV),command line)
  VENV := .venv
  READY := .venv/.ready
endif
ifneq ($(origin PYTHON),command line)
  PYTHON := python3
endif
# Values reach the recipes through the environment, never as text: a quote or a ; in one stays what it is.
export PYTHON VENV T
PY := "$$VENV/bin/python"
TRACKERS := trackio wandb tensorboard mlflow aim comet_ml clearml dvclive swanlab goodseed
BENCHES := configure log_call tracked_training optimizers threshold batches training_step gpu_sampling matrix
SHOWN := tensorboard mlflow aim goodseed
# Each of these is scripts/<its name>.py.
VERBS := train plan reproduce eval data sample export gpu-report gputop list-trackers tracker-sync
MATRIX_VERBS := test_matrix test-matrix test_matrix-dry-run test-matrix-dry-run continue rerun status estimate report graphs export-results

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
.PHONY: $(VERBS) $(MATRIX_VERBS)
train: ## Train what is configured; goes on with an unfinished run of the same configuration [RESUME=n|RUN] [NPROC=n]
plan: ## Say what that would be: batch, steps, memory, processes, the line that starts it
reproduce: ## Train the configuration of RUN=folder again: what differs now, and is the curve the same, bit by bit?
eval: ## Validate the best weights of RUN=folder again
test_matrix test-matrix: ## Train every combination of the MATRIX_ lists once, then report [JOBS=n] [AXES=] [FILTER=] [NPROC=n]
test_matrix-dry-run test-matrix-dry-run: ## Say which these are, and how long they should take
continue rerun: ## Of the last matrix, or of MATRIX=name: train what has no result; train the cells of FILTER= anew [JOBS=n]
status estimate report graphs: ## Of that matrix: bars and failures; time for the rest; its report again
export-results: ## Write a table of all runs [O=folder]

##@ Data and models
data: ## Download and prepare what is configured, and check what is there
sample: ## Let the model of RUN=folder write [PROMPT=] [TOKENS=] [TEMPERATURE=] [TOP_K=], SEED= for another
export: ## Write the best weights of RUN=folder for others to load, to O=folder

##@ GPUs
gputop: ## What the GPUs of the running job do now; q leaves [RUN=folder: that run]
gpu-report: ## Pictures and a summary of what a run's GPUs did [RUN=folder,…: these, compared]

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
.PHONY: $(TRACKERS:%=%-test) trackio-show trackio-view $(SHOWN:%=%-show) wandb-sync
list-trackers: ## Which trackers there are, which are on, and what to install for the others
$(TRACKERS:%=%-test): %-test: $(READY) ## Send made-up curves through the real client, read them back, compare [RUN=folder: that run]
	$(Q)$(PY) scripts/tracker_test.py $*
trackio-show trackio-view $(SHOWN:%=%-show): $(READY) ## Open the tracker's own pages on this machine; Trackio's on TRACKIO_PORT
	$(Q)$(PY) scripts/tracker_show.py $@
wandb-sync: $(READY) ## Send the offline W&B runs; asks for a login
	$(Q)find runs -type d -name 'offline-run-*' -prune -exec "$$VENV/bin/wandb" sync {} +
tracker-sync: ## Send what trackers have not taken, of each run that has ended or RUN=, also to TRACKER= [DRY_RUN=1: only say what]

##@ Develop
.PHONY: check lint types test check-all bench trackers
check: $(READY:=-dev) lint types test ## Lint, types, tests: what CI runs
lint: $(READY:=-dev) ## Lint and format alone
	$(Q)$(PY) -m ruff check . && $(PY) -m ruff format --check .
types: $(READY:=-dev) ## Types alone
	$(Q)$(PY) -m mypy
test: $(READY:=-dev) ## The tests alone [T=-k word]
	$(Q)$(PY) -m pytest $$T
check-all: $(READY:=-dev) lint types ## check, with the tests that take long
	$(Q)$(PY) -m pytest -m "slow or not slow"
bench: $(READY:=-bench) ## Measure against the named peers
	$(Q)for each in $(BENCHES); do $(PY) bench/$$each.py || exit; done
trackers: $(READY) ## Install the other trackers too
	$(Q)$(PY) -m pip install -r requirements-trackers.txt

##@ Clean
.PHONY: clean mrproper distclean runs-clean data-clean
clean: ## Remove caches; never results
	$(Q)rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis && find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
mrproper: clean ## clean, and remove the configuration [O=folder: the one there]
	$(Q)cd "$${O:-.}" && rm -f .config .config.old .config.lock config.py
distclean: mrproper ## mrproper, and remove the environment
	$(Q)rm -rf .venv
runs-clean data-clean: %-clean: ## Delete runs/, or data/; asks first [YES=1]
	$(Q)scripts/ask-and-remove.sh $*

##@ Help
.PHONY: help
help: ## This page
	$(Q)scripts/help.sh Makefile

$(VERBS) $(MATRIX_VERBS): $(READY)
	$(Q)$(PY) scripts/$(if $(filter $@,$(MATRIX_VERBS)),test_matrix,$(subst -,_,$(patsubst data,prepare_data,$@))).py "$$GOAL"

.venv/.ready: requirements.txt requirements.lock
	$(Q)scripts/make-venv.sh .venv requirements.txt && touch $@
.venv/.ready-%: requirements-%.txt .venv/.ready
	$(Q)scripts/make-venv.sh .venv $< && touch $@
