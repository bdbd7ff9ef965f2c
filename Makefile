# The commands a person needs. Everything runs in a virtual environment that the first one makes.

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
READY := .venv/.ready
PYTEST := $(BIN)/pytest -q --numprocesses 3 --dist loadfile --no-loadscope-reorder
REAL_MAP := $(wildcard ../shared/data/two_time_map_350.npy)

.PHONY: demo check test lint docs bench validate release clean

demo: $(READY)  ## simulate, inspect and fit a measurement; everything lands in demo/
	$(BIN)/homodyne demo --directory demo $(if $(REAL_MAP),--map $(REAL_MAP))

check: lint  ## lint and the quick tests: the loop while you write
	$(PYTEST) -m "not slow and not scheduler and not statistical"

test: $(READY)  ## all tests
	$(PYTEST) --durations=30

lint: $(READY)  ## style, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)  ## this documentation as a site, docs/_build/html/index.html
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html

bench: $(READY)  ## speed and memory
	$(BIN)/python -m benchmarks

validate: $(READY)  ## evidence for the error bars, written into docs/validation.md; an interrupted run goes on
	$(BIN)/python -m benchmarks.validation

release: $(READY)  ## VERSION=x.y.z: build, try and tag a release; nothing is pushed
	$(BIN)/python tools/release.py $(VERSION)

clean:  ## remove what the other commands made
	rm -rf .venv .cache demo dist docs/_build docs/reference/generated .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

.cache/lowest.txt: pyproject.toml tools/lowest.py  # for CONSTRAINTS
	mkdir -p .cache
	$(PYTHON) tools/lowest.py > $@

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try  make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	@touch $@
