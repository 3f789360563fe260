# Every target sets up what it needs; `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Test processes; each that needs one starts a control plane of its own.
WORKERS ?= 2
LOCK   := requirements.txt requirements-dev.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-faults test-engine test-mutations check lint bench cluster lock crds metrics dashboards clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## Make .venv with the locked dependencies and the command modelcache

$(VENV)/.ready: $(LOCK) pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed (PYTHON=...)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: set PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python's venv module is missing: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## Fill a cache from a catalog and show what the node holds (two minutes)
	$(BIN)/python -m tests.demo

check: lint ## Lint, types, import layers, fast tests
	$(BIN)/pytest tests/unit -q

lint: setup ## Lint, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup ## All tests; as root also the ones that mount; after `make cluster` on a Kubernetes
	$(BIN)/pytest tests -n $(WORKERS) --dist loadfile --no-loadscope-reorder --ignore tests/engine

test-faults: setup ## Churn, chance, crashes, full disks and clocks in their long form (half an hour at most)
	timeout 1800 $(BIN)/pytest tests/e2e/test_churn.py tests/e2e/test_killing.py tests/component/faults tests/component/store -s --long --timeout 1700

test-engine: setup .venv-engine/.ready ## Compile caches of a real torch.compile, on the CPU (minutes)
	$(BIN)/pytest tests/engine

# torch's CPU build, which PyPI hasn't got for x86-64: docs/testing.md says where pip finds it.
.venv-engine/.ready: tests/engine/requirements.txt
	$(PYTHON) -m venv .venv-engine
	.venv-engine/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

test-mutations: setup ## Break the code in each known way, and see that a test notices
	$(BIN)/python -m tests.mutations $(MUTATIONS)

cluster: setup ## Put a control plane for the tests together (minutes, once for a machine)
	$(BIN)/python -m tests.support.cluster.building

bench: setup .venv-bench/.ready ## Benchmarks, side by side with what a user would pick (BENCH="--only cluster")
	$(BIN)/python -m tests.bench $(BENCH)

.venv-bench/.ready: tests/bench/requirements.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

lock: ## Lock the dependencies again (needs uv)
	uv pip compile pyproject.toml --extra otel --generate-hashes --no-emit-index-url --python-version 3.11 --universal --no-header -o requirements.txt
	uv pip compile pyproject.toml --extra dev --generate-hashes --no-emit-index-url --python-version 3.11 --universal --no-header -c requirements.txt -o requirements-dev.txt
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' | uv pip compile - --generate-hashes --no-emit-index-url --python-version 3.11 --universal --no-header -c requirements-dev.txt -o requirements-build.txt
	uv pip compile tests/bench/requirements.in --generate-hashes --no-emit-index-url --python-version 3.11 --universal --no-header -o tests/bench/requirements.txt
	uv pip compile tests/engine/requirements.in --generate-hashes --no-emit-index-url --python-version 3.11 --no-header $(addprefix --find-links ,$(PIP_FIND_LINKS)) -o tests/engine/requirements.txt

crds: setup ## Write daemonset/crds from the classes in agent/modelcache/api
	$(BIN)/python -m modelcache.api.crds daemonset/crds

metrics: setup ## Write docs/metrics.md from the table in agent/modelcache/metrics/contract
	$(BIN)/python -m modelcache.metrics.documenting docs/metrics.md

dashboards: setup ## Write the dashboards, and the rules as Kubernetes' operators want them
	$(BIN)/python -m dashboards

clean: ## Remove .venv and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
