# Targets install what they need into .venv on the first call.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

install: $(STAMP)  ## install into .venv

demo: $(STAMP)  ## the whole benchmark on the bundled data set, offline; prints where the report is
	$(BIN)/sisbench demo

# two workers with one thread each: the tests are many small networks
test: $(STAMP)  ## the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

test-slow: $(STAMP)  ## the heavier checks: official-size networks, resumes, long runs
	$(BIN)/python -m pytest -q -m slow

# mypy reads no import hooks: it gets the package under its import name as a tree of links
check: $(STAMP)  ## ruff, mypy and import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/typed && mkdir -p build/typed/sisbench
	ln -s $(CURDIR)/bench/* $(addprefix $(CURDIR)/,methods metrics segmenters results) build/typed/sisbench/
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

clean:  ## remove runs and caches
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache

.PHONY: help install demo test test-slow check clean
