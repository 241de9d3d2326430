# Two commands for a newcomer: `make demo` and `make test`. Each sets up .venv by itself;
# all they need is Python 3.11 or newer. `make help` lists the rest.

BIN := .venv/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check

# The newest of these that runs, is new enough and can make a venv. Or name one: make PYTHON=/opt/python3.13/bin/python
CANDIDATES := python3.13 python3.12 python3.11 python3
FITS := -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
PYTHON ?= $(firstword $(foreach name,$(CANDIDATES),$(shell $(name) $(FITS) && echo $(name))))

# pytest is run in two processes: both cores of a small machine, and tests that share nothing by accident
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint types bench bench-consistency build clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: .venv/demo.stamp  ## run a cache, a worker, beat and Flower on real data, and look for stale reads
	@$(BIN)/stoker demo

test: .venv/test.stamp  ## run the tests; they start every server they need
	@$(PYTEST) -m 'not slow'

test-all: .venv/test.stamp  ## run these and the slow ones: soak, kills, guards removed
	@$(PYTEST)

lint: .venv/dev.stamp  ## check style, format and the direction of imports
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/lint-imports --no-logo

types: .venv/dev.stamp  ## check types with mypy and pyright, sources and tests
	@$(BIN)/mypy
	@$(BIN)/pyright --pythonpath $(BIN)/python

bench: .venv/bench.stamp  ## measure speed beside other caches, some fifteen minutes; BENCH=--quick shows that it runs
	@$(BIN)/python -m benchmarks.memory $(BENCH)
	@$(BIN)/python -m benchmarks.near $(BENCH)
	@$(BIN)/python -m benchmarks.redis_speed $(BENCH)
	@$(BIN)/python -m benchmarks.sweeping $(BENCH)
	@$(BIN)/python -m benchmarks.warming $(BENCH)

bench-consistency: .venv/bench.stamp  ## count stale reads of other caches and of Stoker, some seven minutes
	@$(BIN)/python -m benchmarks.consistency

build: .venv/dev.stamp  ## build the wheel and the source archive into dist/
	@rm -rf dist
	@$(BIN)/python -m build

clean:  ## remove .venv, caches and what was built
	@rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is newer than pyproject.toml when .venv holds what it asks for.

.venv/pip.stamp:
	@$(if $(PYTHON),,echo 'Stoker needs Python 3.11 or newer with its venv module (Debian: apt install python3-venv).' >&2; \
	  echo 'Tried $(CANDIDATES). Name another: make PYTHON=/path/to/python' >&2; exit 1)
	@echo "setting up .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear .venv
	@$(PIP) install --upgrade 'pip>=25.1'
	@touch $@

.venv/demo.stamp: .venv/pip.stamp pyproject.toml
	@echo 'installing what pyproject.toml asks for: the demo'
	@$(PIP) install --editable '.[demo]'
	@touch $@

.venv/test.stamp: .venv/pip.stamp pyproject.toml
	@echo 'installing what pyproject.toml asks for: the demo and the tests'
	@$(PIP) install --editable '.[demo]' --group test
	@touch $@ .venv/demo.stamp

.venv/dev.stamp: .venv/pip.stamp pyproject.toml
	@echo 'installing what pyproject.toml asks for: the demo, the tests and the linters'
	@$(PIP) install --editable '.[demo]' --group dev
	@touch $@ .venv/test.stamp .venv/demo.stamp

.venv/bench.stamp: .venv/pip.stamp pyproject.toml
	@echo 'installing what pyproject.toml asks for: the workers and the caches to compare with'
	@$(PIP) install --editable '.[worker]' --group bench
	@touch $@
