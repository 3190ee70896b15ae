# Two commands for a newcomer: `make demo` and `make test`. Each makes what it needs in .venv, and so
# does `make docs`, whose pages then lie in build/docs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Installs stdpipe with EXTRAS by uv, several times faster than by pip. uv reads no pip.conf, so it is
# told what pip's says, and chooses among indexes as pip does. Where there is no uv, or it fails, pip
# installs.
pip_says = $(addprefix --$(1) ,$(shell $(BIN)/python -m pip config list | sed -n "s/.*[.]$(1)='\(.*\)'/\1/p"))
uv_flags = $(foreach key,index-url extra-index-url find-links constraint,$(call pip_says,$(key)))
install = { $(BIN)/python -m pip install --quiet uv && $(BIN)/python -m uv pip install --quiet \
	--python $(BIN)/python --index-strategy unsafe-best-match $(uv_flags) -e ".$(EXTRAS)"; } \
	|| $(BIN)/python -m pip install --quiet -e ".$(EXTRAS)"

.PHONY: demo test test-all check docs clean

demo: $(VENV)/.demo
	$(BIN)/stdpipe demo --out demo

# One worker more than there are cores, since some tests wait.
WORKERS = $(shell $(BIN)/python -c "import os; print(min(os.cpu_count(), 7) + 1)")

test: check
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --durations=5 -m "not slow"

# The slow ones too: every Vid4 frame, a built wheel, the whole demo.
test-all: check
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --durations=10

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
	$(install)
	touch $@

$(VENV)/.docs: EXTRAS = [docs]
$(VENV)/.docs: $(VENV)/bin/python setup.cfg
	$(install)
	touch $@ $(VENV)/.demo

$(VENV)/.test: EXTRAS = [test,dev]
$(VENV)/.test: $(VENV)/bin/python setup.cfg
	$(install)
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build demo *.egg-info
