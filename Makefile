# make demo   build the embedded reference model to a bundle (sets .venv up first)
# make test   lint, types, import order and tests (sets .venv up first)
# make check  the same with the fast tests alone, for every commit
# make lowest the fast tests with the lowest versions that pyproject.toml promises
# make audit  known vulnerabilities of the installed packages, by pip-audit
# make docs   build the documentation into site/
# make bench  rewrite benchmarks/results/ (hours on two cores, most of them for frontier.py)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
AUDIT := .venv-audit
READY := $(VENV)/.ready
TIDY := $(VENV)/.tidy
C_FOLDERS := primesvt_deploy/edge/native primesvt_deploy/edge/native/mcu tools/fuzz tests/edge/native
# Kernels are the same text for each vector unit. mcu/ compares addresses of the linker, and needs
# files of a model to be compiled.
C_FILES := $(filter-out %/svit_avx2.c %/svit_avx512.c %/svit_neon.c,$(wildcard $(C_FOLDERS:%=%/*.c)))
CPPCHECK := cppcheck --quiet --std=c99 --enable=warning,portability,performance --inline-suppr \
            --suppress=comparePointers:*/mcu/* --error-exitcode=1 -j 2
TIDY_FILES := $(filter-out %/mcu/main.c %/mcu/startup.c,$(C_FILES))
# Containers often set it: each process that a test starts would then compile the package anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test check lint style cppcheck tidy lowest audit docs bench setup clean

setup: $(READY)

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[build,dev]'
	touch $@

demo: $(READY)
	$(BIN)/primesvt-deploy build --budget-mb 4.2 --policy greedy --held-out-images 1000 --output bundle --force

test: style
	$(BIN)/python -m pytest

check: lint
	$(BIN)/python -m pytest -m "not slow"

lint: style tidy
	$(BIN)/mypy

# What takes no time; `make test` checks types beside the tests (tests/test_types.py).
style: $(READY) cppcheck
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

cppcheck:
	@if command -v cppcheck >/dev/null; then $(CPPCHECK) $(C_FILES); \
	else echo "cppcheck is not installed: C files were not checked"; fi

# Half a minute, so that it looks at C files again only when one of them has changed.
tidy: $(READY) $(TIDY)

$(TIDY): .clang-tidy $(C_FILES) $(wildcard $(C_FOLDERS:%=%/*.h))
	@if command -v clang-tidy >/dev/null; then \
	printf '%s\n' $(TIDY_FILES) | xargs -P 2 -n 3 sh -c 'clang-tidy --quiet "$$@" -- -std=c99 \
	-Iprimesvt_deploy/edge/native -Itools/fuzz 2>/dev/null' tidy && touch $@; \
	else echo "clang-tidy is not installed: C files were not checked"; fi

lowest:
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c tests/packaging/lowest.txt -e '.[build,dev]'
	$(LOWEST)/bin/python -m pytest -m "not slow"

audit: $(READY)
	test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && \
		$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit; }
	$(AUDIT)/bin/pip-audit --skip-editable --progress-spinner off --path \
		"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open site/index.html; with search: $(BIN)/python -m http.server --directory site"

bench: $(READY)
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf bundle bundle.work site
