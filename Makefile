# make bench and make test set up what is missing. `make help` lists the rest.
#
#   VENV=dir     the virtual environment, made if it is not there (default .venv); a torch that is
#                already in it is kept
#   VENV=        (empty) no environment: install into the one PYTHON belongs to
#   PYTHON=exe   the interpreter that makes the environment (default python3)
#   TORCH=...    what to install where there is no torch; torchvision needs the torch it was built for
#   FULL=1       bench: every layer, dtype and layout; test: also builds from source, for minutes
#   SLICE=name   gpu: this slice only (python tools/gpu.py --list)
#   BUDGET=540   gpu: seconds for all slices together
#   RESUME=file  gpu: go on from the archive of an earlier machine
#   DRY_RUN=1    gpu: the same command lines without a GPU, shortened

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.11.0 torchvision==0.26.0

ifeq ($(strip $(VENV)),)
PY := $(PYTHON)
BIN :=
MAKE_ENVIRONMENT := true
STAMPS := build/make
else
BIN := $(VENV)/bin/
PY := $(BIN)python
MAKE_ENVIRONMENT := test -x $(PY) || $(PYTHON) -m venv $(VENV)
STAMPS := $(VENV)/effkern-make
endif
PIP := $(PY) -m pip install --disable-pip-version-check --quiet
# torch stays the version it is, whatever another package would prefer.
KEEP_TORCH := --constraint $(STAMPS)/constraints.txt

CXX_FILES = $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: bench test gpu lint wheel clean help setup build

bench: build  ## the microbenchmark on this machine's best device, into results/
	$(PY) -m benchmarks micro $(if $(FULL),--full)

test: build  ## every test this machine can run
	$(PY) -m pytest $(if $(FULL),,-m "not slow_build") $(PYTEST_ARGS)

# On a machine without a network, what is installed has to do. Where no environment was made and
# PYTHON has a torch, PYTHON is the one to use.
gpu: GPU_PY = $(or $(shell command -v $(PY)),$(shell $(PYTHON) -c "import torch" 2> /dev/null \
	&& echo $(PYTHON)),$(PY))
gpu:  ## everything worth doing with one GPU, in slices that go on where the last call ended
	@$(GPU_PY) tools/gpu.py --check \
		|| PIP_RETRIES=0 PIP_DEFAULT_TIMEOUT=10 $(MAKE) --no-print-directory setup \
		|| echo "make gpu: no network; what is installed has to do"
	$(GPU_PY) tools/gpu.py $(if $(DRY_RUN),--dry-run) $(if $(BUDGET),--budget $(BUDGET)) \
		$(if $(RESUME),--resume $(RESUME)) $(SLICE)

lint: $(STAMPS)/lint  ## ruff, mypy, clang-format; changes nothing
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(BIN)clang-format --dry-run -Werror $(CXX_FILES)

wheel: setup  ## dist/: a wheel for this Python, which runs on torch 2.11 and newer, and the sdist
	rm -rf build/lib* build/bdist* dist
	$(PY) -m build --no-isolation --sdist --wheel

clean:  ## removes what builds leave behind; keeps the environment and results/
	rm -rf build dist *.egg-info effkern/*.so .mypy_cache .pytest_cache .ruff_cache .hypothesis

help:  ## this list
	@sed -nE 's/^([a-z]+):.*  ## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(STAMPS)/setup

# Ninja decides what is out of date; when nothing is, this takes a second.
build: setup
	$(PY) setup.py --quiet build_ext --inplace

$(STAMPS)/setup: pyproject.toml MANIFEST.in
	$(MAKE_ENVIRONMENT)
	mkdir -p $(STAMPS)
	$(PY) -c "import torch" 2> /dev/null || $(PIP) $(TORCH)
	$(PY) -c "from importlib.metadata import version as v; print('torch==' + v('torch'))" \
		> $(STAMPS)/constraints.txt
	$(PIP) "setuptools>=77" "packaging>=24.2" "pybind11>=2.13" "ninja>=1.11"
	$(PIP) $(KEEP_TORCH) --no-build-isolation --editable ".[bench,test]"
	touch $@

$(STAMPS)/lint: $(STAMPS)/setup
	$(PIP) --no-build-isolation --editable ".[lint]"
	touch $@
