# Thin: every target is one command. `make demo` and `make test` do everything on a fresh machine.
SHELL := /bin/sh
PYTHON ?= /usr/bin/python3.11
UV := build/tools/bin/uv
RUN := .venv/bin/python
export UV_PYTHON = $(PYTHON)
export PYTHONDONTWRITEBYTECODE =
# Pods mount both environments read-only: what is not compiled at setup is compiled anew in every pod.
export UV_COMPILE_BYTECODE = 1

.PHONY: help demo test check crds docs lint format types cluster-up cluster-down images setup clean

help:               ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/'

setup: .venv/.ready build/env/operator/.ready   ## Install both environments from uv.lock

$(UV):
	@sh scripts/bootstrap.sh

.venv/.ready: uv.lock pyproject.toml | $(UV)
	UV_PROJECT_ENVIRONMENT=.venv $(UV) sync --frozen --quiet --group dev
	@touch $@

build/env/operator/.ready: uv.lock pyproject.toml | $(UV)
	UV_PROJECT_ENVIRONMENT=build/env/operator $(UV) sync --frozen --quiet --no-default-groups --extra operator
	@touch $@

demo: setup         ## Fine-tune a real model on a real cluster, kill a rank, watch it go on
	$(RUN) -m windlass.cli.main demo $(DEMO_ARGUMENTS)

test: setup         ## Everything: checks, contract, workloads, end to end
	$(RUN) -m tests.run all

check: setup        ## Format, lint, types, import contracts, unit tests (under 2 minutes)
	$(RUN) -m tests.run check

crds: setup         ## Regenerate crds/, the chart's copy and the reference pages
	$(RUN) scripts/generate.py

format: setup       ## Format the code
	$(RUN) -m ruff format . && $(RUN) -m ruff check --fix --quiet .

cluster-up: setup   ## Start the local cluster (kind where Docker runs, else the embedded one)
	$(RUN) -m windlass.cli.cluster up

cluster-down:       ## Stop it and leave nothing behind
	$(RUN) -m windlass.cli.cluster down

images: setup       ## Build the container images with Docker
	$(RUN) -m windlass.cli.main images

bench-%: setup      ## Run one benchmark; writes build/bench/NAME.json
	$(RUN) -m tests.bench.$*

clean:              ## Remove build products (not the cluster: make cluster-down first)
	rm -rf .venv build/env build/bench build/tools
