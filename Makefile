# Commands for users and developers. Continuous integration runs the same ones (.ci/run).

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Where the Set5 photographs lie beside the checkout, the demo is measured on them too.
SET5 := $(wildcard ../shared/data/test/set5)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo smoke test test-all docs check wheel clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1 - \2/p' Makefile | while IFS= read -r line; do \
		printf '  make %-10s %s\n' "$${line%% - *}" "$${line#* - }"; done

setup: $(STAMP)  ## install quantnas and its tools into .venv

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/pip || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "quantnas needs Python 3.11 or newer: try 'make setup PYTHON=python3.12'." >&2; exit 1; }
	@echo "installing into .venv (a few minutes the first time)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@$(BIN)/pip install -q -c constraints.txt -e ".[dev]"
	@touch $@
	@echo "ready: $(BIN)/quantnas --help"

demo: setup  ## the whole pipeline on the bundled photographs (ARGS="..." is passed on)
	$(BIN)/quantnas run $(addprefix --benchmark ,$(SET5)) $(ARGS)

smoke: setup  ## the whole pipeline with a tiny configuration, into a temporary folder
	@out=$$(mktemp -d) && echo "writing to $$out" && \
		$(BIN)/quantnas run --config tests/smoke.yaml --output "$$out"

test: setup  ## the fast tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

test-all: setup  ## every test, the slow ones too
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

docs: setup  ## write docs/cli.md from the commands' own help, and build the site of the documentation
	$(BIN)/python -m typer quantnas.cli.main utils docs --name quantnas --title Commands --output docs/cli.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "ready: site/index.html"

check: setup  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

wheel: setup  ## build sdist and wheel, and try the wheel outside the checkout
	rm -rf build dist
	$(BIN)/python -m build -q
	@echo "installing the wheel into a temporary environment"
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && set -e && \
		$(BIN)/python -m venv "$$tmp/venv" && \
		"$$tmp/venv/bin/pip" install -q -c constraints.txt dist/*.whl && \
		cd "$$tmp" && venv/bin/quantnas --help && venv/bin/quantnas info rfdn_small
	@ls dist

clean:  ## remove what was built, and caches; keeps .venv and runs
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find quantnas cli search_spaces tests -name __pycache__ -type d -prune -exec rm -rf {} +
