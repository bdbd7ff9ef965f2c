# The commands a person needs. Everything runs in a virtual environment that the first one makes.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
REAL_MAP := $(wildcard ../shared/data/two_time_map_350.npy)

.PHONY: demo test lint bench validate clean

demo: $(READY)  ## simulate, inspect and fit a measurement; everything lands in demo/
	$(BIN)/homodyne demo --directory demo $(if $(REAL_MAP),--map $(REAL_MAP))

test: $(READY)  ## the tests
	$(BIN)/pytest -q --durations=30 --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: $(READY)  ## style, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## speed and memory
	$(BIN)/python -m benchmarks

validate: $(READY)  ## evidence for the error bars, written into docs/validation.md; an interrupted run goes on
	$(BIN)/python -m benchmarks.validation

clean:  ## remove what the other commands made
	rm -rf .venv .cache demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try  make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
