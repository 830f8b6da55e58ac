# One command for each thing that a contributor does. `make help` lists them.
# Everything happens in .venv; nothing outside this folder is touched.

PYTHON  ?= python3
JOBS    ?= 2
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.setup-done
DEMO    := runs/demo
RIVALS  := .venv-rivals
RUN     ?= runs/mnist

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint bench bench-records bench-samplers bench-bounds bench-memory docs docs-full
.DELETE_ON_ERROR:

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## .venv with elbowroom (editable), its extras and the development tools

# pip reads dependency groups from 25.1 on, and a fresh venv may bring an older one
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "elbowroom needs Python 3.11 or later; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[tables,tensorboard,arviz,pyro]' --group dev
	@touch $@

demo: setup  ## train on the digits that ship with scikit-learn, measure, draw: a minute, no network
	rm -rf $(DEMO)
	$(BIN)/elbowroom train digits --out $(DEMO)
	$(BIN)/elbowroom evaluate $(DEMO)
	$(BIN)/elbowroom sample $(DEMO)
	$(BIN)/elbowroom reconstruct $(DEMO)
	$(BIN)/elbowroom report $(DEMO)
	@echo
	@echo "Open the report, in any browser:"; echo "  $(DEMO)/report.html"
	@echo "Or the pictures alone:"; ls $(DEMO)/figures/*.png | sed 's/^/  /'

# one thread for each process: the processes share the cores
test: setup  ## all tests but the slow ones, in JOBS=2 processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

test-all: setup  ## the slow tests too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m 'slow or not slow'

lint: setup  ## style, formatting, types, and the floors of the house
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy bench
	$(BIN)/python -m pytest -q tests/test_floors.py

bench: setup $(RIVALS)/.setup-done  ## speed of training, importance sampling and AIS beside other libraries; rewrites bench/RESULTS.md
	$(BIN)/python -m bench.run --rivals-python $(RIVALS)/bin/python

bench-records: setup  ## trains the recipes against the clock and measures them, over an hour; rewrites bench/RECORDS.md
	$(BIN)/python -m bench.records

bench-samplers: setup $(RIVALS)/.setup-done  ## HMC and NUTS beside BlackJAX and Pyro, on RUN=runs/mnist; rewrites bench/SAMPLERS.md
	$(BIN)/python -m bench.samplers $(RUN)

bench-bounds: setup  ## the gap between bounds on log p(x) against its cost, on RUN=runs/mnist
	$(BIN)/python -m bench.bounds $(RUN)

bench-memory: setup  ## a memory-mapped file beside an array, and start-up; rewrites bench/MEMORY.md
	$(BIN)/python -m bench.memory

$(RIVALS)/.setup-done: bench/requirements-samplers.txt bench/requirements-training.txt
	$(PYTHON) -m venv $(RIVALS)
	$(RIVALS)/bin/python -m pip install --quiet -c constraints.txt $(addprefix -r ,$^)
	@touch $@

# pages of the book are run while the site is built, JOBS at a time; a claim that is not true stops it
SPHINX := $(BIN)/python -m sphinx --builder html --jobs $(JOBS) --fail-on-warning --keep-going docs docs/_build/html

docs: setup  ## the site, docs/_build/html, with scikit-learn's digits: minutes, no network
	OMP_NUM_THREADS=1 $(SPHINX)

docs-full: setup  ## the same with MNIST, from $$ELBOWROOM_DATA or fetched: three quarters of an hour
	ELBOWROOM_DOCS=full OMP_NUM_THREADS=1 $(SPHINX)
