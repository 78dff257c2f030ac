# Each target does all of its own set-up: virtual environment, Python packages, and system packages where it may.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What the tests drive for real: sound servers, PortAudio, OSC clients.
APT := python3-venv libportaudio2 libasound2-plugins jackd2 pipewire pipewire-jack pulseaudio pulseaudio-utils liblo-tools \
       puredata-core supercollider-language supercollider-server chromium ffmpeg gcc g++ python3-dev lv2-dev lilv-utils jalv \
       sordi valgrind ladspa-sdk

.PHONY: demo test lint bench docs pictures screenshots song clean

demo: $(VENV)/.runtime
	$(BIN)/streamsep demo -o demo

test: $(VENV)/.dev $(VENV)/.node
	PYTHON="$(PYTHON)" ./.ci/system-packages $(APT)
	$(MAKE) --no-print-directory $(VENV)/.song
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python bench/results.py

# The documentation as a site, from docs/ and the docstrings: site/index.html. Any warning ends it.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# The pictures of README and documentation, made again from what is heard and measured.
pictures: $(VENV)/.dev
	$(BIN)/python docs/pictures.py
	$(BIN)/python bench/terminal.py -o docs/terminal.svg

# The pictures of the monitor page, taken by a real browser of a real daemon.
screenshots: $(VENV)/.dev
	PYTHON="$(PYTHON)" ./.ci/system-packages chromium
	$(BIN)/python bench/screenshots.py

# Renders the demo song again; needs espeak-ng, fluidsynth and fluid-soundfont-gm.
song: $(VENV)/.song
	$(BIN)/python bench/song.py

$(VENV)/bin/python:
	PYTHON="$(PYTHON)" ./.ci/system-packages python3-venv
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "streamsep needs Python 3.11 or newer: make PYTHON=python3.x ...")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.runtime

# What sings, for the demo song and train.sing; it compiles C++. Without it two tests are skipped, and in CI they fail.
$(VENV)/.song: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[song]' && touch $@ || \
	  echo "pyworld could not be built: it needs g++ and the headers of $$($(BIN)/python -V)" >&2

# OSCQuery clients written by others, for one test; without npm it is skipped, and in CI it fails.
$(VENV)/.node: $(VENV)/.dev
	command -v npm >/dev/null || PYTHON="$(PYTHON)" ./.ci/system-packages nodejs npm
	if command -v npm >/dev/null; then npm install --silent --no-audit --no-fund --omit=optional --ignore-scripts \
	  --prefix $(VENV)/node oscquery@1.1.1 osc@2.4.5; fi
	touch $@

clean:
	rm -rf $(VENV) .venv-peers demo stems first-model out site dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
