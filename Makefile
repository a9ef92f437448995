# make setup | demo | full-demo | base | test | test-research | lint | lock | docs | results | gallery | bench-serving | bench-training | bench-scale | gpu-check | gpu-kit | soak | bench-accuracy | bench-ood.
# Everything is installed from the two pinned locks into .venv and .venv-server, and nowhere else. Of a site's workspace nothing is made
# here but demo/, demo-full/ and base/: `cmb init` creates others.
SHELL := bash
.SHELLFLAGS := -o pipefail -c
# The first Python of these versions that is there and can make environments.
first_python = $(shell for v in $(1); do for p in python$$v python3; do \
	$$p -c "import ensurepip, sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != '$$v')" 2>/dev/null && echo $$p && exit; done; done)
# PYTHON=/path/to/python takes another than the newest.
PYTHON ?= $(call first_python,3.13 3.12 3.11)
# The server's steps need numpy 1.26, which has no wheel for Python 3.13: an older one is taken where there is one, else numpy is built.
SERVER_PYTHON ?= $(if $(PYTHON),$(or $(shell $(PYTHON) -c "import sys; sys.exit(sys.version_info[:2] > (3, 12))" 2>/dev/null && echo $(PYTHON)),$(call first_python,3.12 3.11),$(PYTHON)))
describe_python = $$($(1) -c 'import platform, sys; print(platform.python_version(), "at", sys.executable)')
BIN := .venv/bin
PIP := -m pip install --disable-pip-version-check --no-input

.PHONY: setup environments python demo full-demo base test test-research lint lock docs results gallery bench-serving bench-training bench-scale gpu-check gpu-kit soak bench-accuracy bench-ood

setup:
	@test -e .venv/.done -a -e .venv-server/.done || $(MAKE) --no-print-directory python
	@$(MAKE) --no-print-directory -j2 environments

environments: .venv/.done .venv-server/.done
	@:

python:
	@test -n "$(PYTHON)" || { echo "make: expected Python 3.11, 3.12 or 3.13 with its venv module, found none; install one (Debian, Ubuntu: apt-get install python3-venv) or pass PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) -c "import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" 2>/dev/null || { echo "make: PYTHON=$(PYTHON): expected Python 3.11, 3.12 or 3.13 with its venv module, got another or none; pass another, or none to have one chosen" >&2; exit 2; }
	@echo "Python $(call describe_python,$(PYTHON))"
	@test "$(PYTHON)" = "$(SERVER_PYTHON)" || echo "for the server: Python $(call describe_python,$(SERVER_PYTHON))"

# .done is touched last: an interrupted set-up is repeated, a finished one costs nothing.
.venv/.done: requirements.lock pyproject.toml
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python $(PIP) -r requirements.lock 2>&1 | $(PYTHON) scripts/pip_progress.py "set up .venv (3 GB)" requirements.lock .venv/setup.log
	@$(BIN)/python $(PIP) -q --no-deps --no-build-isolation -e .
	@touch $@

.venv-server/.done: serving/requirements.txt pyproject.toml
	@$(SERVER_PYTHON) -m venv --clear .venv-server
	@.venv-server/bin/python $(PIP) -r serving/requirements.txt 2>&1 | $(PYTHON) scripts/pip_progress.py "set up .venv-server (1 GB)" serving/requirements.txt .venv-server/setup.log
	@.venv-server/bin/python $(PIP) -q --no-deps -e .
	@touch $@

demo: setup
	@$(BIN)/python -m scripts.demo

full-demo: setup
	@$(BIN)/python -m scripts.demo full

# The base release of the package, cmb_models/base_release/, trained on simulated scans in base/: hours. The signing key stays there.
base: setup
	@$(BIN)/python -m scripts.base

# Without the tests marked ci, which take long, and with fewer kills; CMB_EVERY_STEP=1 runs everything, as .ci/run does.
test: setup lint
	@$(BIN)/python -m pytest -n $$($(BIN)/python -c 'from cmb_models.machine import worker_count; print(worker_count(8, 3))') --dist loadfile --no-loadscope-reorder

# The experiments' own tests, without the long ones unless CMB_EVERY_STEP=1; nothing in the product depends on research/.
test-research: setup
	@$(BIN)/python -m pytest research -n $$($(BIN)/python -c 'from cmb_models.machine import worker_count; print(worker_count(8, 3))') --dist loadfile

lint: setup
	@$(BIN)/ruff check -q . && $(BIN)/ruff format --check -q . && $(BIN)/mypy --no-error-summary

# Figures, plots and generated pages of README and docs, from the committed JSON; after a demo, ARGS="--demo demo" collects its figures.
results: setup
	@$(BIN)/python -m scripts.results $(ARGS)

docs: setup
	@$(BIN)/mkdocs build --strict -q -d .site

# The pictures of docs/explanation/phantom.md, a few minutes.
gallery: setup
	@$(BIN)/python -m scripts.gallery

# Research: how many scans it takes, compared with other methods: a night on two cores; for less, ARGS="--draws 1 --steps-scale 0.25".
bench-accuracy: setup
	@$(BIN)/python -m research.accuracy $(ARGS)

# Research: a release on scans of the out-of-distribution simulator: make bench-ood ARGS="--workspace demo"
bench-ood: setup
	@$(BIN)/python -m research.ood_simulator $(ARGS)

# How long a scan takes, of the demo's release: five minutes; of another's, ARGS="--workspace ../site"
bench-serving: setup
	@$(BIN)/python -m benchmarks.serving $(ARGS)

# A release on a CUDA device compared with the CPU: eight minutes; ARGS="--device cpu" tests the script without one.
gpu-check: setup
	@$(BIN)/python -m benchmarks.gpu_check $(ARGS)

# What the check needs on a machine without internet, in build/gpu-kit.tar.xz; scripts/gpu_kit.py unpacks and runs it there.
gpu-kit: setup
	@$(BIN)/python scripts/gpu_kit.py pack $(ARGS)

# Steps/s in both precisions, with and without AVX-512: twelve minutes; the ratios alone, ARGS="--precision-only"
bench-training: setup
	@$(BIN)/python -m benchmarks.training_speed $(ARGS)

# Trainings on Dask compared with the process pool, and a cohort of 1,000 small scans with kills: a quarter of an hour; for a part, ARGS="reading"
bench-scale: setup
	@$(BIN)/python -m benchmarks.scale $(ARGS)

# A server under load and abuse for half an hour, with a promotion or rollback every 20 s; for less, ARGS="--minutes 2"
soak: setup
	@$(BIN)/python -m benchmarks.serving.soak $(ARGS)

# After changing a version by hand: install it, run the tests, then freeze. The comments at the head of each lock stay.
lock:
	@{ grep '^#' requirements.lock; $(BIN)/python -m pip freeze --all --exclude pip --exclude-editable | sed 's/+cpu$$//'; } > .lock.new && mv .lock.new requirements.lock
	@{ grep '^#' serving/requirements.txt; .venv-server/bin/python -m pip freeze --exclude-editable; } > .lock.new && mv .lock.new serving/requirements.txt
