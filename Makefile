# Every target sets itself up: on a fresh machine with Python 3.11 (or newer), make and git, `make pipeline-run` is the first command.
SHELL := /bin/bash
.DEFAULT_GOAL := help

SPEC ?= demo
ARGS ?=
RUNNER ?= auto
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name) 2>/dev/null)))
VENV ?= .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
DOCS_VENV ?= .venv-docs
DOCS_STAMP := $(DOCS_VENV)/.installed
TRACKING_URI ?= sqlite:///$(CURDIR)/results/mlflow.db

export MLFLOW_DISABLE_TELEMETRY := true
export NUMBA_CACHE_DIR ?= $(CURDIR)/.cache/numba
export TORCHINDUCTOR_CACHE_DIR ?= $(CURDIR)/.cache/compiled
export PYTHONPATH := $(CURDIR)
export BASE TENSORRT_BASE BUILD_ARGS DOCKER_ARGS

.PHONY: help setup pipeline-run compile images push mlflow-ui test test-slow test-all fuzz check format docs bench bench-gpu gpu-check lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  SPEC=name or path   ARGS=\"section.field=value …\"   RUNNER=auto|process|docker|kfp   CLUSTER=file"

setup: $(STAMP) ## make the environment from the pinned lock, with the command reid in it

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; found: $$($(PYTHON) --version). Set PYTHON=…" >&2; exit 2; }
	@echo "setting up $(VENV) from requirements.lock (about 7 GB; some minutes)"
	@$(PYTHON) .ci/require_space.py $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation --editable .
	@touch $@

pipeline-run: $(STAMP) ## run the whole pipeline of SPEC, here or on the cluster of KFP_ENDPOINT=…
	@$(RUN) -m pipelines --spec "$(SPEC)" --runner "$(RUNNER)" $(if $(CLUSTER),--cluster "$(CLUSTER)") $(ARGS)

compile: $(STAMP) ## write pipeline.yaml of SPEC, for the Kubeflow UI
	@$(RUN) -m pipelines --spec "$(SPEC)" --compile-only pipeline.yaml $(if $(CLUSTER),--cluster "$(CLUSTER)") $(ARGS)

images: ## build the images of the stages (BASE=an image with Python 3.11, or with PyTorch)
	@$(PYTHON) -m pipelines.local.image_builds build

push: ## push both images to REGISTRY, and print their digests
	@$(if $(REGISTRY),,echo "make push: want REGISTRY=registry.example.org/team" >&2; exit 2;) $(PYTHON) -m pipelines.local.image_builds push "$(REGISTRY)"

mlflow-ui: $(STAMP) ## serve the experiments for a browser: http://127.0.0.1:5000
	@mkdir -p results
	@echo "The experiments, opened on model training: http://127.0.0.1:$(or $(PORT),5000)/#/experiments?workflowType=machine_learning"
	@$(VENV)/bin/mlflow ui --backend-store-uri "$(TRACKING_URI)" --host 127.0.0.1 --port $(or $(PORT),5000)

test: export OMP_NUM_THREADS := 1
test: $(STAMP) ## run the tests, at most 10 minutes on 2 cores
	@$(RUN) -m pytest -q -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder tests

test-slow: export OMP_NUM_THREADS := 1
test-slow: $(STAMP) ## run the slow tests: real servers, kills, whole runs
	@$(RUN) -m pytest -q -m slow -n 2 --dist loadfile --no-loadscope-reorder tests

test-all: export OMP_NUM_THREADS := 1
test-all: $(STAMP) ## run all tests, the slow ones too
	@$(RUN) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests

fuzz: $(STAMP) ## put 10,000 hostile inputs through everything that reads one; ARGS="--cases 100000 --seed 7" for others
	@$(RUN) -m tests.fuzz $(ARGS)

check: $(STAMP) ## run ruff and mypy
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

format: $(STAMP) ## let ruff correct and format the code
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

docs: $(DOCS_STAMP) ## build the site of docs/ in build/site, and check every link
	@NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --quiet --strict
	@echo build/site/index.html

$(DOCS_STAMP): docs/requirements.lock
	@$(PYTHON) -m venv $(DOCS_VENV)
	@$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r docs/requirements.lock
	@touch $@

bench: $(STAMP) ## measure the speed against textbook code and the machine's limits: table, JSON and picture in results/bench
	@$(RUN) -m tests.bench $(ARGS)

bench-gpu: $(STAMP) ## measure training, embedding and re-ranking at Market-1501's size on a GPU; ARGS="--rows …" for some of it
	@$(RUN) -m tests.bench.bench_gpu $(ARGS)

gpu-check: $(STAMP) ## run the checks that need a GPU, each compared with the CPU, in at most 8 minutes; ARGS="--rows …" for some of them
	@$(RUN) -m tests.bench.gpu_check $(ARGS)

lock: requirements.in tests/tritonserver.in tests/pgvector.in docs/requirements.in ## write the lock files anew from their .in files, and the images' lists of packages (needs uv)
	@uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -q requirements.in -o requirements.lock
	@uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-deps -q tests/tritonserver.in -o tests/tritonserver.lock
	@uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-deps -q tests/pgvector.in -o tests/pgvector.lock
	@uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -q docs/requirements.in -o docs/requirements.lock
	@$(MAKE) setup
	@$(RUN) -m components.packages

clean: ## remove results, caches and the environments
	rm -rf results .cache .pytest_cache .mypy_cache .ruff_cache build/site $(VENV) $(DOCS_VENV)
