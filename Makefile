# Targets install what they need into .venv on the first call.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHONS ?= 3.11 3.12 3.13 3.14

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

# SISBENCH_FAULTS_SEED=7 draws other moments, bytes and configurations
test-faults: $(STAMP)  ## kills, damaged files, write errors, fuzzing; prints how many of each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m 'faults or not faults' -n 2 --dist load tests/faults

# Slurm: apt-get install slurm-wlm munge; what is not here is skipped with its reason
test-engines: $(STAMP)  ## Slurm and Ray for real, on this machine
	$(BIN)/python -m pip install --quiet --editable '.[slurm,ray]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "slow or not slow" tests/test_clusters.py

# one environment and the whole suite for each supported Python that is on this machine
test-pythons:  ## the tests on every Python from 3.11 on that is found here (PYTHONS="3.11 3.13" chooses)
	@set -e; found=""; for version in $(PYTHONS); do \
	  python$$version -c '' 2>/dev/null || { echo "Python $$version: not on this machine"; continue; }; \
	  found="$$found $$version"; home=$(VENV)/python-$$version; \
	  test -x $$home/bin/python || python$$version -m venv $$home; \
	  $$home/bin/python -m pip install --quiet --editable '.[dev]'; \
	  echo "Python $$version"; OMP_NUM_THREADS=1 $$home/bin/python -m pytest -q -n 2 --dist loadfile; \
	done; test -n "$$found" || { echo "none of Python $(PYTHONS) is on this machine"; exit 1; }

# the lower bounds of pyproject.toml; tests/test_packaging.py keeps tests/oldest.txt to them
test-oldest:  ## the tests with the oldest supported versions of the dependencies, on Python 3.11
	test -x $(VENV)/oldest/bin/python || python3.11 -m venv $(VENV)/oldest
	$(VENV)/oldest/bin/python -m pip install --quiet --constraint tests/oldest.txt --editable '.[dev]'
	OMP_NUM_THREADS=1 $(VENV)/oldest/bin/python -m pytest -q -n 2 --dist loadfile

# mypy reads no import hooks: it gets the package under its import name as a tree of links
check: $(STAMP)  ## ruff, typos, mypy and import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/typos
	rm -rf build/typed && mkdir -p build/typed/sisbench
	ln -s $(CURDIR)/bench/* $(addprefix $(CURDIR)/,methods metrics segmenters results) build/typed/sisbench/
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

clean:  ## remove runs and caches
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache

.PHONY: help install demo test test-slow test-faults test-engines test-pythons test-oldest check clean
