# `make demo` and `make test` need Linux, Python 3.10 or newer with its venv module, and a package
# index; everything is installed into a private virtual environment.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# For CI: a file of version pins, see tests/oldest-pins.txt.
CONSTRAINT ?=
PIP = $(BIN)/python -m pip install -q --disable-pip-version-check $(if $(CONSTRAINT),-c $(CONSTRAINT))

.PHONY: demo test reference systemd lint clean

# The real daemon hears a bundled recording; its transcripts arrive over the socket.
demo: $(VENV)/.base
	$(BIN)/python engines/demo/demo.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not reference" $(PYTEST_ARGS)

# Comparison with openai-whisper and transformers on the same weights; it brings torch. Kokoro is
# not compared: its package needs numpy 2, which the oldest versions that are tested do not have.
reference: $(VENV)/.reference
	$(BIN)/python -m pytest -m reference $(PYTEST_ARGS)

# The units in a booted container, with the sound of a user's PulseAudio; needs root.
systemd:
	tests/systemd/run.sh

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# A stamp for each set of packages, so that a second call installs nothing.
$(VENV)/.base: $(BIN)/python setup.cfg
	@echo "Installing into $(VENV) (once, about a minute) ..."
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(BIN)/python setup.cfg
	@echo "Installing the test tools into $(VENV) (once) ..."
	$(PIP) -e '.[dev]'
	@touch $@

# Without its dependencies, since openai-whisper would bring a GPU compiler that nothing here needs.
$(VENV)/.reference: $(VENV)/.dev
	@echo "Installing torch, openai-whisper, transformers and kokoro-onnx into $(VENV) (once) ..."
	$(PIP) torch==2.13.0 'transformers>=4.46' more-itertools numba tqdm
	$(PIP) --no-deps openai-whisper==20250625
	$(PIP) -e '.[kokoro]'
	@touch $@
