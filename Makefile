# make demo   build the embedded reference model to a bundle (sets .venv up first)
# make test   lint, types, import order and tests (sets .venv up first)
# make check  the same with the fast tests alone, for every commit
# make lowest the fast tests with the lowest versions that pyproject.toml promises
# make bench  rewrite benchmarks/results/ (hours on two cores, most of them for frontier.py)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
READY := $(VENV)/.ready
# Containers often set it: each process that a test starts would then compile the package anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test check lint style lowest bench setup clean

setup: $(READY)

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[build,dev]'
	touch $@

demo: $(READY)
	$(BIN)/primesvt-deploy build --budget-mb 4.2 --policy greedy --output bundle --force

test: style
	$(BIN)/python -m pytest

check: lint
	$(BIN)/python -m pytest -m "not slow"

lint: style
	$(BIN)/mypy

# What takes no time; `make test` checks types beside the tests (tests/test_types.py).
style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

lowest:
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c tests/packaging/lowest.txt -e '.[build,dev]'
	$(LOWEST)/bin/python -m pytest -m "not slow"

bench: $(READY)
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf bundle bundle.work
