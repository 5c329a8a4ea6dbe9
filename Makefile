# Everything that a contributor types. `make run` and `make test` set themselves up.
PYTHON ?= python3
OUTPUTS ?= outputs
PORT ?= 5000
VENV := .venv
BIN := $(VENV)/bin
# uv installs the lock file in seconds; it is fetched by pip into a folder of its own where the machine has none. Modules
# are compiled at once, as pip does: with PYTHONDONTWRITEBYTECODE every process would compile TensorFlow anew, for 5 s.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

.PHONY: help setup run remote-demo test test-remote test-containers ui lint format bench lock clean
help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(VENV)/.ready ## install what the lock file names into .venv
$(VENV)/.ready: requirements.lock
	@command -v $(UV) >/dev/null || { $(PYTHON) -m venv .uv && .uv/bin/pip install --quiet 'uv>=0.9,<1'; }
	$(UV) venv --quiet --clear --python "$(PYTHON)" $(VENV)
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes --requirements requirements.lock
	@touch $@

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

# Tiers, cheapest first, each with its budget in seconds. Two tests run at once, but for those of containers: CI has two
# cores, and much of the time goes into waiting for other processes. Of stage the longest file is the second, so files keep
# their order there.
test: setup ## all tests
	$(BIN)/pytest tests/unit -n 2 --session-timeout=300
	$(BIN)/pytest tests/stage -n 2 --dist loadfile --no-loadscope-reorder --timeout=600 --session-timeout=1500
	$(BIN)/pytest tests/contract -n 2 --timeout=600 --session-timeout=900
	$(BIN)/pytest tests/sweeps -n 2 --dist loadfile --no-loadscope-reorder --timeout=900 --session-timeout=1200
	$(BIN)/pytest tests/e2e -n 2 --dist loadfile --timeout=1200 --session-timeout=2700
	$(MAKE) test-remote
	$(MAKE) test-containers

test-remote: setup ## backend=remote against the emulator
	$(BIN)/pytest tests/remote -n 2 --dist loadfile --timeout=600 --session-timeout=1500
	$(BIN)/pytest tests/contract --backend sagemaker-remote -n 2 --timeout=600 --session-timeout=1200

test-containers: setup ## the suite against real containers
	$(BIN)/pytest tests/contract tests/docker --backend sagemaker-local --timeout=600 --session-timeout=1800

bench: setup ## decoding, side by side with the alternatives; sweeps of up to 200 children
	PYTHONPATH=src $(BIN)/python -m benchmarks.decode
	PYTHONPATH=src $(BIN)/python -m benchmarks.sweeps

# What the stages of an image import. requirements.lock chooses the versions, so that stage ids are the same everywhere.
IN_PREPROCESS := av numpy opencv-python-headless psutil
IN_TRAIN := keras matplotlib numpy psutil tensorflow
IN_PREDICT := av keras numpy opencv-python-headless psutil tensorflow
COMPILE := --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
  --custom-compile-command 'make lock'

lock: ## resolve the dependencies anew, and those of the images
	$(UV) pip compile pyproject.toml --group pyproject.toml:launch --group pyproject.toml:dev $(COMPILE) --output-file requirements.lock
	printf '%s\n' $(IN_PREPROCESS) | $(UV) pip compile - --constraint requirements.lock $(COMPILE) --output-file launchers/images/preprocess.txt
	printf '%s\n' $(IN_TRAIN) | $(UV) pip compile - --constraint requirements.lock $(COMPILE) --output-file launchers/images/train.txt
	printf '%s\n' $(IN_PREDICT) | $(UV) pip compile - --constraint requirements.lock $(COMPILE) --output-file launchers/images/predict.txt

clean: ## remove what was installed; outputs/ stays
	rm -rf $(VENV) .uv .mypy_cache .pytest_cache .ruff_cache
