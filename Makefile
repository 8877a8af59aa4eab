# For GNU Make 3.81 (macOS) and later. `make help` lists the targets.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup train test benchmark lint format weights lock clean

PYTHON ?= python3#    interpreter that .venv is made from
ARGS ?=#              passed on to the command of a target
JOBS ?= 2#            worker processes of make test

VENV := .venv
BIN := $(VENV)/bin
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
TYPED := src $(wildcard datamodules lit_models train.py eval.py)
# Settings of .env, where there is one (see .env.example).
ENVIRONMENT := test ! -f .env || { set -a; . ./.env; };

help: ## list the targets
	@echo "usage: make TARGET [ARGS=...] [JOBS=$(JOBS)] [PYTHON=$(PYTHON)]"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## create .venv and install the locked packages into it
	@echo "$(VENV) is ready. To train the whole scheme: make train"
	@echo "For the commands genrefocus and python in this shell: . $(BIN)/activate"

train: $(READY) ## train the whole scheme; ARGS="trainer=gpu scale=paper" overrides the config
	@$(ENVIRONMENT) exec $(BIN)/python train.py experiment=semi_supervised $(ARGS)

test: $(READY) ## run the tests; ARGS="-k optics" picks some
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

benchmark: $(READY) ## measure the latest run beside the unmodified input and classical methods
	@$(ENVIRONMENT) exec $(BIN)/genrefocus benchmark run=latest $(ARGS)

lint: $(READY) ## check style, complexity and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy $(TYPED)

format: $(READY) ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

weights: $(READY) ## fetch the trunks of LPIPS and DISTS (make setup has tried it once)
	@$(ENVIRONMENT) exec $(BIN)/genrefocus weights $(ARGS)

lock: $(READY) ## write the versions in .venv to requirements.lock (on Linux)
	@{ grep '^#' requirements.lock; \
	  $(PIP) freeze --all --exclude-editable --exclude pip \
	  | sed -E '/^(cuda-|nvidia-|triton=)/ s/$$/ ; sys_platform == "linux"/'; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock

clean: ## remove caches and build products; .venv, data and outputs stay
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

# Without an interpreter that runs (none yet, or the one it was made from is gone), or with one of
# another version, .venv is remade.
ifneq ($(shell $(BIN)/python -c "$(SUPPORTED)" 2>/dev/null && echo 1),1)
.PHONY: $(READY)
endif

$(READY): requirements.lock pyproject.toml
	@$(BIN)/python -c "$(SUPPORTED)" 2>/dev/null || { \
	  $(PYTHON) -c "$(SUPPORTED)" 2>/dev/null || { \
	    echo "Python 3.11, 3.12 or 3.13 is needed; $(PYTHON) is" \
	      "$$($(PYTHON) --version 2>/dev/null || echo not there)." \
	      "Name another: make setup PYTHON=python3.12" >&2; \
	    exit 1; }; \
	  $(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }; }
	@echo "Installing the packages of requirements.lock into $(VENV): on Linux 6.6 GB of disk, most of it the CUDA" \
	  "libraries of torch. It takes about 6 minutes on one core with a fast network. pip names each package that" \
	  "it fetches; after its line 'Installing collected packages' it unpacks them and says nothing for minutes."
	@$(PIP) install --requirement requirements.lock
	$(PIP) install --no-deps --editable .
	@echo "Fetching the metric weights (LPIPS, DISTS) ..."
	@$(ENVIRONMENT) $(BIN)/genrefocus weights || echo "Going on without metric weights:" \
	  "LPIPS and DISTS will be shown as not available. To try again: make weights" >&2
	@touch $@
