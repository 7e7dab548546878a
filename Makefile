# Each target sets up what it needs; the only requirements are Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TESTS := tests
PEERS ?= benchmarks/.venv
BENCH ?=

.PHONY: help setup viewer demo test test-slow check lint types format bench timings real-data systems2d docs lock clean

help:  ## List the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,dev]'
	-$(BIN)/python -m seg3d.reporting.viewer.fetch
	touch $@

setup: $(READY)  ## Make the virtual environment with the locked versions

viewer: $(READY)  ## Fetch NiiVue for viewer pages (npm; without it they browse slices)
	$(BIN)/python -m seg3d.reporting.viewer.fetch

demo: $(READY)  ## Phantom chest CTs: check, prepare, train, predict, evaluate
	$(BIN)/seg3d demo --output demo

test: $(READY)  ## Run the tests, but for the slow ones
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "not slow" $(TESTS)

test-slow: $(READY)  ## Run the slow tests: more kills, more files, longer audits
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow $(TESTS)

check: lint types test  ## Lint, types, import direction and tests

lint: $(READY)  ## Ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## mypy, strict
	$(BIN)/mypy

format: $(READY)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch comes first, of the build that the package index offers; see the files for what is installed alone, and why
$(PEERS)/.ready: pyproject.toml constraints.txt benchmarks/peers/requirements.txt benchmarks/peers/requirements-alone.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade pip
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt --editable . --requirement benchmarks/peers/requirements.txt
	$(PEERS)/bin/python -m pip install --quiet --no-deps --requirement benchmarks/peers/requirements-alone.txt
	touch $@

bench: $(PEERS)/.ready  ## Side by side with MONAI, TorchIO and nnU-Net (hours): docs/benchmark.md; BENCH='--subjects 1,2'
	$(PEERS)/bin/python -m benchmarks.peers $(BENCH)

timings: $(READY)  ## Measurements of single parts; prints tables
	$(BIN)/python -m benchmarks

real-data: $(READY)  ## Train and score on the real scans in ../shared/data (about an hour)
	$(BIN)/python -m benchmarks.real_data

systems2d: $(READY)  ## Train and score the four 2D systems on ../shared/data (hours)
	$(BIN)/python -m benchmarks.systems2d

docs: $(READY)  ## Build the documentation into site/, which opens from the disk
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lock: $(READY)  ## Write constraints.txt from the environment
	(head -1 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed -E 's/\+cpu//') > constraints.new
	mv constraints.new constraints.txt

clean:  ## Remove what was made, but no runs and no MLflow records
	rm -rf $(VENV) demo site .pytest_cache .mypy_cache .ruff_cache
