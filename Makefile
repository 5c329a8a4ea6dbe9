# Everything that a contributor types. `make run` and `make test` set themselves up.
PYTHON ?= python3
OUTPUTS ?= outputs
PORT ?= 5000
VENV := .venv
BIN := $(VENV)/bin
ENVIRONMENT := $(PYTHON) launchers/environment.py
UV = "$$($(ENVIRONMENT) uv)"
# An environment that somebody else made may have no videolift in it, or that of another checkout.
ifneq ($(shell test -L $(VENV) || { test -e $(VENV) && ! test -e $(VENV)/.ready; } && echo theirs),)
export PYTHONPATH := $(CURDIR)/src:$(CURDIR)
endif

.PHONY: help setup run remote-demo ui lint format test test-unit test-stage test-contract test-sweeps test-e2e test-remote \
  test-remote-jobs test-remote-contract test-containers bench lock clean
help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: ## install what the lock file names, and videolift itself, into .venv
	@$(ENVIRONMENT) setup $(if $(filter file,$(origin PYTHON)),--any-python)

run: setup ## the main job on embedded data
	$(BIN)/python run.py

remote-demo: setup ## the same as jobs on SageMaker, against an emulator of it on this machine
	$(BIN)/python -m launchers.emulator -- $(BIN)/python run.py backend=remote backend.role=videolift-job backend.poll_s=1

ui: setup ## MLflow UI on loopback over outputs/mlflow.db
	$(BIN)/python -m launchers.ui --outputs "$(OUTPUTS)" --port $(PORT)

lint: setup ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src launchers run.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One that fails does not keep the others from running.
each = @failed=; for tier in $(1); do $(MAKE) --no-print-directory test-$$tier || failed="$$failed $$tier"; done; \
  if [ -n "$$failed" ]; then echo "make: tests failed in:$$failed" >&2; exit 1; fi

# Tiers, cheapest first, each with its budget in seconds. Two tests run at once, but for those of containers: CI has two
# cores, and much of the time goes into waiting for other processes. Of stage the longest file is the second, so files keep
# their order there.
test: setup ## all tests
	$(call each,unit stage contract sweeps e2e remote containers)

test-unit: setup
	$(BIN)/pytest tests/unit -n 2 --session-timeout=600

test-stage: setup
	$(BIN)/pytest tests/stage -n 2 --dist loadfile --no-loadscope-reorder --timeout=600 --session-timeout=1500

test-contract: setup
	$(BIN)/pytest tests/contract -n 2 --timeout=600 --session-timeout=900

test-sweeps: setup
	$(BIN)/pytest tests/sweeps -n 2 --dist loadfile --no-loadscope-reorder --timeout=900 --session-timeout=1200

test-e2e: setup
	$(BIN)/pytest tests/e2e -n 2 --dist loadfile --timeout=1200 --session-timeout=2700

test-remote: setup ## backend=remote against the emulator
	$(call each,remote-jobs remote-contract)

test-remote-jobs: setup
	$(BIN)/pytest tests/remote -n 2 --dist loadfile --timeout=600 --session-timeout=1500

test-remote-contract: setup
	$(BIN)/pytest tests/contract --backend sagemaker-remote -n 2 --timeout=600 --session-timeout=1200

test-containers: setup ## the suite against real containers
	$(BIN)/pytest tests/contract tests/docker --backend sagemaker-local --timeout=600 --session-timeout=1800

bench: setup ## decoding, side by side with the alternatives; sweeps of up to 200 children
	$(BIN)/python -m benchmarks.decode
	$(BIN)/python -m benchmarks.sweeps

# What the stages of an image import. requirements.lock chooses the versions, so that stage ids are the same everywhere.
IN_PREPROCESS := av numpy opencv-python-headless psutil
IN_TRAIN := keras matplotlib numpy psutil tensorflow
IN_PREDICT := av keras numpy opencv-python-headless psutil tensorflow
COMPILE := --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
  --custom-compile-command 'make lock'

lock: ## resolve the dependencies again, and those of the images
	$(UV) pip compile pyproject.toml --group pyproject.toml:launch --group pyproject.toml:build --group pyproject.toml:dev $(COMPILE) --output-file requirements.lock
	printf '%s\n' $(IN_PREPROCESS) | $(UV) pip compile - --constraint requirements.lock $(COMPILE) --output-file launchers/images/preprocess.txt
	printf '%s\n' $(IN_TRAIN) | $(UV) pip compile - --constraint requirements.lock $(COMPILE) --output-file launchers/images/train.txt
	printf '%s\n' $(IN_PREDICT) | $(UV) pip compile - --constraint requirements.lock $(COMPILE) --output-file launchers/images/predict.txt

clean: ## remove what was installed; outputs/ stays
	@$(ENVIRONMENT) clean
	rm -rf .mypy_cache .pytest_cache .ruff_cache
