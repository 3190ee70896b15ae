# Two commands for a newcomer: `make demo` and `make test`. Each makes what it needs in .venv, and so
# does `make docs`, whose pages then lie in build/docs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all check docs clean

demo: $(VENV)/.demo
	$(BIN)/stdpipe demo --out demo

test: check
	$(BIN)/python -m pytest -n auto --maxprocesses=4 --durations=5 -m "not slow"

# The slow ones too: every Vid4 frame, a built wheel, the whole demo.
test-all: check
	$(BIN)/python -m pytest -n auto --maxprocesses=4 --durations=10

# Format, lint, and types of what ships: mypy sees the installed layout, where cache/ is stdpipe.cache.
check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	rm -rf build/typed
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target build/typed .
	cd build/typed && ../../$(BIN)/python -m mypy --config-file ../../setup.cfg -p stdpipe

# A warning is an error: a link within that leads nowhere, a page that nothing lists.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -q -d build/doctrees -b html docs build/docs
	@echo open build/docs/index.html

$(VENV)/bin/python:
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), 'stdpipe needs Python 3.11 or newer'"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python setup.cfg
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.docs: $(VENV)/bin/python setup.cfg
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	touch $@ $(VENV)/.demo

$(VENV)/.test: $(VENV)/bin/python setup.cfg
	$(BIN)/python -m pip install --quiet -e ".[test,dev]"
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build demo *.egg-info
