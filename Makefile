# make serve   make the environment, install, serve PyPI with the cache built in (ARGS="--host 0.0.0.0")
# make test    make the environment, install, pass every test (ARGS="tests/core -k range")
# make promises   what this cache promises, its goal and what is measured, a line each (ARGS="G1 G4": these alone)
# make soak    the same in the long size: hours in all, half an hour of it G17 (ARGS="G17")
# make conformance   the public HTTP cache suite (Node and npm are needed); writes docs/conformance.md
# make bench   measure beside nginx, aiohttp, proxpi, devpi and peryx, write tests/bench/RESULTS.md (ARGS="cold": that alone)
# make bench-quick   warm answers beside nginx and aiohttp in two minutes, as ratios (wrk is needed)
# make lint    ruff, mypy and bandit over the whole tree
# make audit   known vulnerabilities of what it is tested with
# make clean   remove the environment and what tools left behind

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
ARGS ?=

# A module's tests share a server, so they stay together; tests/conftest.py says which groups go first.
PARALLEL ?= -n 3 --dist loadgroup --no-loadscope-reorder

BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# What the tools write goes into the environment: the tree stays as it was checked out.
export COVERAGE_FILE = $(abspath $(VENV))/coverage
export HYPOTHESIS_STORAGE_DIRECTORY = $(abspath $(VENV))/hypothesis

.PHONY: serve test promises soak conformance bench bench-quick lint audit clean

serve: $(VENV)/installed
	exec $(BIN)/pip-cache-proxy serve $(ARGS)

# Tests that need Node say so where there is none.
NODE = $(shell command -v node >/dev/null && command -v npm >/dev/null && echo node)

# The core decides everything and does no I/O: each of its branches is tested (the whole suite is run for that).
test: $(VENV)/installed-test $(NODE:node=$(VENV)/installed-conformance)
	$(BIN)/python -m pytest -o cache_dir=$(abspath $(VENV))/pytest \
		$(if $(ARGS),$(ARGS),$(PARALLEL) --cov=proxy.core --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=100)

conformance: $(VENV)/installed-test $(VENV)/installed-conformance
	$(BIN)/python -m tests.conformance

# Times are among them: they want a machine that does nothing else.
promises: $(VENV)/installed-test
	$(BIN)/python -m tests.promises $(ARGS)

soak: $(VENV)/installed-test
	$(BIN)/python -m tests.promises --long $(ARGS)

# Figures, not tests: what they are worth depends on the machine and on what else it does.
bench: $(VENV)/installed-test
	$(BIN)/python -m tests.bench $(or $(ARGS),table)

bench-quick: $(VENV)/installed-test
	$(BIN)/python -m tests.bench table-quick

lint: $(VENV)/installed-lint
	$(BIN)/ruff check --cache-dir $(VENV)/ruff .
	$(BIN)/mypy --cache-dir $(VENV)/mypy
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml proxy

# SECURITY.md says why the one that is left out is none here.
audit: $(VENV)/installed-lint
	$(BIN)/pip-audit --progress-spinner off --disable-pip --no-deps --requirement constraints.txt \
		--ignore-vuln CVE-2025-69872 --format json 2>/dev/null | $(BIN)/python .ci/audit.py

# A stamp per set of packages: nothing is installed twice while what it depends on has not changed.
$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[test]'
	@touch $@

$(VENV)/installed-lint: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[test,lint]'
	@touch $@

# npm writes into the environment only: no lock file, no cache or logs in a home. Where it cannot be had the tests say so.
$(VENV)/installed-conformance: tests/conformance/package.json | $(BIN)/python
	@mkdir -p $(VENV)/http-cache-tests
	@cp $< $(VENV)/http-cache-tests/package.json
	@if cd $(VENV)/http-cache-tests && npm_config_cache="$$PWD/.npm" npm install --loglevel=error --ignore-scripts \
		--no-package-lock --no-audit --no-fund --no-update-notifier; then touch $(abspath $@); else test -z "$$CI"; fi
	@rm -rf $(VENV)/http-cache-tests/.npm

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=...") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist .coverage .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find proxy tests -name __pycache__ -type d -prune -exec rm -rf {} +
