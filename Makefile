# Everything that is done with this project, by the names that CI uses too. `make help` lists it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
UV_VERSION := 0.13.9
STAMP := $(VENV)/installed
STAMP_LIGHT := $(VENV)/installed-light
COMPILE := $(UV) pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --quiet --custom-compile-command "make lock"
TESTS := $(BIN)/python -m pytest

export UV_LINK_MODE ?= hardlink

.PHONY: help install serve serve-light test test-extra fuzz check bench overload abandon chaos soak image sbom lock clean
.DEFAULT_GOAL := help

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv from requirements.lock (3.3 GB to download, 6 GB on disk, most of it torch)

serve: $(STAMP) ## fill the registry where it is empty, then serve on http://127.0.0.1:8000
	$(BIN)/hubel setup
	exec $(BIN)/hubel serve

serve-light: $(STAMP_LIGHT) ## serve a registry made elsewhere (HUBEL_REGISTRY) without installing torch
	exec $(BIN)/hubel serve

test: $(STAMP) ## unit, contract and short end-to-end tests, two files at a time
	OMP_NUM_THREADS=1 $(TESTS) -n 2 --dist loadfile -m "not extra"

test-extra: $(STAMP) ## what needs wrk, chromium and prometheus, or more time
	$(TESTS) -m extra

fuzz: $(STAMP) ## damaged images for FUZZ_SECONDS (600); FUZZ_SEED repeats a run
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} $(TESTS) -s tests/extra/test_fuzz_decoding.py

check: $(STAMP) ## lint, types, import arrows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) ## the service beside plain loops of its engine and of torch, on this machine, in six minutes
	$(BIN)/python -m benchmarks.serving

overload: $(STAMP) ## ten times, and three times, what the service can do: who is answered, who is refused
	$(BIN)/python -m benchmarks.overload

abandon: $(STAMP) ## ten thousand clients that send half an image and vanish
	$(BIN)/python -m benchmarks.abandon

chaos: $(STAMP) ## five minutes of kills, hangs, faults and a registry that comes and goes
	$(BIN)/python -m benchmarks.chaos

soak: $(STAMP) ## a quarter of an hour at 80 % of what the service can do
	$(BIN)/python -m benchmarks.soak

image: ## build the container image
	docker build -t hubel .

sbom: $(STAMP) ## list what the image serves with (CycloneDX: versions, hashes, licences)
	$(BIN)/python -m deploy.sbom dist/hubel.cdx.json

lock: $(UV) ## pin every dependency anew
	$(COMPILE) --extra torch --extra openvino --extra s3 --extra timm --group dev --output-file requirements.lock
	$(COMPILE) --extra s3 --constraints requirements.lock --output-file requirements-serve.lock

clean: ## remove what was made, but not the registry
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache benchmarks/results

$(UV):
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(STAMP): requirements.lock pyproject.toml | $(UV)
	$(UV) pip sync --quiet --python $(BIN)/python requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	rm -f $(STAMP_LIGHT)
	touch $@

# The full environment serves as well: nothing is taken away from it.
$(STAMP_LIGHT): requirements-serve.lock pyproject.toml | $(UV)
	if [ ! -e $(STAMP) ]; then \
	  $(UV) pip sync --quiet --python $(BIN)/python requirements-serve.lock && \
	  $(UV) pip install --quiet --python $(BIN)/python --no-deps --editable . ; fi
	touch $@
