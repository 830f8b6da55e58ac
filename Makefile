# `make help` lists the commands. Everything is installed in .venv; nothing outside this folder is touched.

PYTHON  ?= python3
JOBS    ?= 2
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.demo-ready
STAMP   := $(VENV)/.setup-done
DEMO    := runs/demo
RIVALS  := .venv-rivals
RUN     ?= runs/mnist

# Python may write its bytecode: without it each process compiles the package and pytest rewrites the asserts of all tests
# anew, half of what collecting them takes.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint bench bench-records bench-samplers bench-bounds bench-memory docs docs-full
.DELETE_ON_ERROR:

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## .venv with elbowroom (editable), its extras and the development tools

# all that the demo needs; --no-compile: Python compiles what it imports, a small part of what torch installs
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "elbowroom needs Python 3.11 or later; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e .
	@touch $@

# dependency groups need pip 25.1; a new .venv may have an older one
$(STAMP): $(READY)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[tables,tensorboard,arviz,pyro,flows]' --group dev
	@touch $@

demo: $(READY)  ## train on scikit-learn's digits, measure, draw, report: a minute, once its packages are there
	rm -rf $(DEMO)
	$(BIN)/elbowroom train digits --out $(DEMO)
	$(BIN)/elbowroom evaluate $(DEMO)
	$(BIN)/elbowroom sample $(DEMO)
	$(BIN)/elbowroom reconstruct $(DEMO)
	$(BIN)/elbowroom report $(DEMO)
	@echo
	@echo "Open the report, in any browser:"; echo "  $(DEMO)/report.html"
	@echo "Or the pictures alone:"; ls $(DEMO)/figures/*.png | sed 's/^/  /'

# each process has one thread, because the processes share the cores, and whole files, because tests of one share runs
test: setup  ## all tests but the slow ones, in JOBS=2 processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --durations=15 --durations-min=1.0

test-all: setup  ## all tests, the slow ones too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m 'slow or not slow'

lint: setup  ## style, formatting, types and import layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy bench
	$(BIN)/python -m pytest -q tests/test_import_layers.py

bench: setup $(RIVALS)/.setup-done  ## times of training, importance sampling and AIS beside other libraries'; rewrites bench/RESULTS.md
	$(BIN)/python -m bench.run --rivals-python $(RIVALS)/bin/python

bench-records: setup  ## train and measure the recipes mnist-5min, -15min, -45min, over an hour; rewrites bench/RECORDS.md
	$(BIN)/python -m bench.records

bench-samplers: setup $(RIVALS)/.setup-done  ## times of HMC and NUTS beside BlackJAX's and Pyro's, on RUN=runs/mnist; rewrites bench/SAMPLERS.md
	$(BIN)/python -m bench.samplers $(RUN)

bench-bounds: setup  ## what a smaller gap between bounds on log p(x) costs, on RUN=runs/mnist
	$(BIN)/python -m bench.bounds $(RUN)

bench-memory: setup  ## memory for a memory-mapped file and for an array, time to start; rewrites bench/MEMORY.md
	$(BIN)/python -m bench.memory

$(RIVALS)/.setup-done: bench/requirements-samplers.txt bench/requirements-training.txt
	$(PYTHON) -m venv $(RIVALS)
	$(RIVALS)/bin/python -m pip install --quiet -c constraints.txt $(addprefix -r ,$^)
	@touch $@

# The pages of the book run while the site is built, JOBS at a time; a failed assertion stops the build.
SPHINX := $(BIN)/python -m sphinx --builder html --jobs $(JOBS) --fail-on-warning --keep-going docs docs/_build/html

docs: setup  ## build the site, docs/_build/html, with scikit-learn's digits: minutes, no network
	OMP_NUM_THREADS=1 $(SPHINX)

docs-full: setup  ## build the site with MNIST, from $$ELBOWROOM_DATA or downloaded: three quarters of an hour
	ELBOWROOM_DOCS=full OMP_NUM_THREADS=1 $(SPHINX)
