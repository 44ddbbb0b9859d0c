# `make demo` and `make test` are all a fresh machine needs; both build the same environment.
# A name may exist and still not run (version managers leave such stubs), so each is tried.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do $$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
export NO_ALBUMENTATIONS_UPDATE = 1

.PHONY: setup demo test pytest test-slow lint docs clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml requirements.lock
	@$(or $(PYTHON),false) -c '$(FITS)' || { echo "Python 3.11 or 3.12 is needed: make PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[test]'
	touch $@

demo: setup
	$(BIN)/unclip run demo

test: setup
	$(MAKE) --jobs 2 lint pytest

# Most tests wait or use one core, so two processes share the files. Each test uses one thread.
pytest: export OMP_NUM_THREADS = 1
pytest: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache

docs: setup
	$(BIN)/python -m pipelines.config.reference
