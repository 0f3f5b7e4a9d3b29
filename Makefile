# Needs Python 3.11 or newer, make, and a package index that pip can reach; all else goes to .venv.
#
#   make demo    execute examples/tour.ipynb on the kernel and show it
#   make examples  data science with a warm pandas; notebooks in a batch, and on a Dask cluster
#   make test    run the tests            (PYTEST_ARGS="-k pool" for some of them, JOBS=0 one after the other)
#   make lint    ruff, ruff format, mypy
#   make bench   measure kernels          (BENCH_ARGS="--help" for what there is)
#   make gate    count what a cell costs, and fail if it has grown
#   make figures measure everything for docs/performance.md, and write it anew
#   make screenshots  take the documentation's pictures of JupyterLab anew
#   make docs    build the documentation into docs/_build/html
#   make lab     JupyterLab with the kernel
#   make clean   remove .venv and everything else that was made

PYTHON ?= python3
# uv, where it is found, installs faster; `make UV= ...` does without it.
UV ?= $(shell command -v uv 2>/dev/null)
PYTEST_ARGS ?=
# Processes that run the tests, a file in each; 0: one, which prints the tests in their order.
JOBS ?= 2
BENCH_ARGS ?=
LAB_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# What an installation is made of: the wheel brings the kernelspec, so that is part of it.
SOURCES := pyproject.toml pyrepl_kernel/_version.py $(wildcard kernelspec/*)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo examples test lint bench gate figures screenshots docs lab chromium xvfb clean

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/.installed-demo
	@$(BIN)/python examples/run_notebook.py examples/tour.ipynb

examples: $(VENV)/.installed-examples
	@PYREPL_WARMUP="import pandas, matplotlib.pyplot" $(BIN)/python examples/run_notebook.py \
	  examples/power.ipynb
	@$(BIN)/python examples/batch.py
	@$(BIN)/python examples/sweep_dask.py

test: $(VENV)/.installed-test
	@$(MAKE) -s --no-print-directory chromium || echo "Going on without it."
	@$(MAKE) -s --no-print-directory xvfb || echo "Going on without it."
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/.installed-bench
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

# It goes on without what cannot be had, and says so.
gate: $(VENV)/.installed-bench
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  { command -v valgrind && command -v strace; } >/dev/null || { \
	    apt-get -qq update >/dev/null && \
	    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y valgrind strace >/dev/null; } || true; \
	fi
	@$(BIN)/python -m benchmarks.gate

figures: $(VENV)/.installed-figures
	@$(BIN)/python -m benchmarks --runs 15 --json docs/performance.json || echo "Some failed; see above."
	@$(BIN)/python -m benchmarks.scale --json docs/scale.json
	@$(BIN)/python -m benchmarks.page

# The times in the picture of a restart are those of docs/restart.json, which this writes:
# python -m benchmarks.lab_restart --json docs/restart.json
screenshots: $(VENV)/.installed-test chromium
	@$(BIN)/python -m tools.screenshots
	@$(BIN)/python -m benchmarks.lab_recording

docs: $(VENV)/.installed-docs
	@$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

# JupyterLab refuses root unless it is told.
lab: $(VENV)/.installed-lab
	@$(BIN)/jupyter lab $$(test "$$(id -u)" != 0 || echo --allow-root) --notebook-dir=examples $(LAB_ARGS)

# The tests that drive JupyterLab need a Chromium.
chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing chromium with apt-get, for the tests in a browser"; \
	    apt-get -qq update >/dev/null && \
	    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y chromium >/dev/null; \
	  else \
	    echo "The tests in a browser need Chromium: install your system's package 'chromium'."; \
	    false; \
	  fi; }

# The tests of Tk need a display, which nobody has to see.
xvfb:
	@command -v Xvfb >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing xvfb with apt-get, for the tests of Tk"; \
	    apt-get -qq update >/dev/null && \
	    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y xvfb >/dev/null; \
	  else \
	    echo "The tests of Tk need Xvfb: install your system's package 'xvfb'."; \
	    false; \
	  fi; }

clean:
	rm -rf $(VENV) build dist docs/_build docs/_generated .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, and $(PYTHON) is not; name one: make PYTHON=python3.12"; \
	  exit 1; }
	@echo "Making the environment $(VENV) with $$($(PYTHON) --version)"
	@$(if $(UV),$(UV) venv -q --seed --python "$$(command -v $(PYTHON))" $(VENV),$(PYTHON) -m venv $(VENV)) || { \
	  rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make environments; its package 'venv' may be missing"; \
	  exit 1; }

# One stamp for each set of packages; an edit of pyproject.toml installs anew what is asked for.
EXTRAS_demo := demo
EXTRAS_examples := demo,examples
EXTRAS_lab := demo,lab
EXTRAS_test := test
EXTRAS_bench := bench
EXTRAS_figures := bench,kernels
EXTRAS_docs := docs
EXTRAS_lint := test,bench,lint

$(VENV)/.installed-%: $(SOURCES) | $(BIN)/python
	@echo "Installing pyrepl-kernel[$(EXTRAS_$*)] into $(VENV); the first time this takes a minute"
	@began=$$(date +%s); \
	$(if $(UV),$(UV) pip install -q --python $(BIN)/python -e '.[$(EXTRAS_$*)]' 2>/dev/null ||) \
	$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[$(EXTRAS_$*)]' && \
	echo "Installed in $$(($$(date +%s) - began)) s"
	@touch $@
