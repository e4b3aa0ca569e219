# A fresh Debian 12 machine with Python 3.11, git and make is enough: `make demo`, `make test`.
#
# Variables: PYTHON (the interpreter to build the environment with), PIP_ARGS (further arguments for pip install; pip also
# reads its usual configuration and PIP_* variables, so a mirror or an index of CPU-only torch wheels needs nothing here),
# STUDY and OUT (make demo), JOBS (make test: files that are tested at a time), ARGS (further arguments of demo, test and
# bench).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
STUDY ?=
OUT ?= out
JOBS ?= 2
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
# Stamps: quick the second time, done again when a dependency or a pin changes.
RUNTIME := $(VENV)/.installed-runtime
TESTING := $(VENV)/.installed-test

.PHONY: help venv demo peers test lint pictures bench constraints clean distclean

help:  ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{ printf "make %-12s %s\n", $$1, $$2 }'

venv: $(TESTING)  ## the virtual environment from pinned constraints, with what tests and checks need

# make itself ends with 2 whenever a command fails and prints that command's status ("Error 3": the study was rejected);
# `.venv/bin/python -m worker.demo` ends with it.
demo: $(RUNTIME)  ## one head CT through the whole node; STUDY=<folder of DICOM> OUT=<folder> for a real one
	@$(BIN)/python -m worker.demo $(if $(STUDY),--study "$(STUDY)") --out "$(OUT)" $(ARGS)

peers:  ## the real peers of the tests (DCMTK, Orthanc, Chromium, PostgreSQL, ...) by apt-get as root, OHIF by npm
	@bash tests/peers/install.sh

test: $(TESTING)  ## every test, with real peers on free loopback ports; ARGS="-k name" for some
	@bash tests/peers/install.sh || true
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(ARGS)

lint: $(TESTING)  ## ruff, mypy and the import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

pictures: $(TESTING)  ## renews docs/pictures: what a reader sees in OHIF
	@bash tests/peers/install.sh || true
	@$(BIN)/python -m tests.viewer.pictures

bench: $(TESTING)  ## the benchmarks: ratios measured in one run
	@bash tests/peers/install.sh || true
	@$(BIN)/python -m bench $(ARGS)

constraints: $(TESTING)  ## writes the versions of the present environment into constraints.txt
	@{ grep '^#' constraints.txt; $(BIN)/pip freeze --all --exclude-editable | grep -E '==' | grep -v '^pip==' \
	    | sed -E 's/\+[A-Za-z0-9.]+$$//' | LC_ALL=C sort -f; } > constraints.new
	@mv constraints.new constraints.txt

clean:  ## removes caches and build outputs; results and the environment stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean  ## clean, and the environment too
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed (make PYTHON=...)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || bash tests/peers/install.sh python3-venv
	@$(PYTHON) -m venv $(VENV)

$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the pinned packages into $(VENV); the first time takes some minutes"
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e .
	@touch $@

$(TESTING): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the pinned packages into $(VENV), with those of the tests; the first time takes some minutes"
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[test]'
	@touch $(RUNTIME) $@
