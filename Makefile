# Every target sets up `.venv` by itself, once; `make demo` or `make test` may be the first command.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test fuzz chaos fleet open gpu containers check audit format up

help:
	@echo "make demo    one prompt through the real service: out/demo.mp4 and out/demo.png"
	@echo "make up      queue server, workers and API on http://127.0.0.1:8000"
	@echo "make test    the whole test suite"
	@echo "make fuzz    thousands of calls that the API's own document allows or forbids: reports/fuzz.json"
	@echo "make chaos   500 jobs while random parts of the service die, then an audit: reports/chaos.json"
	@echo "make fleet   four workers beside one, a long queue beside none, checkpoints: reports/fleet.json"
	@echo "make open    adapters of open weights beside plain diffusers: reports/openweights.json"
	@echo "make gpu     Wan's shapes on a CUDA machine beside plain diffusers: reports/gpu.json"
	@echo "make containers  builds the images and proves them on a Docker engine: reports/containers.json"
	@echo "make check   ruff, mypy, the import contracts, the audit"
	@echo "make audit   known vulnerabilities of what is installed, where an index answers"
	@echo "make format  let ruff rewrite the sources"
	@echo "make setup   only create $(VENV) and install into it"

setup: $(STAMP)

$(STAMP): pyproject.toml setup.sh
	@sh setup.sh $(VENV)
	@touch $@

demo: $(STAMP)
	@$(BIN)/praxino demo

up: $(STAMP)
	@$(BIN)/praxino up

# Each process has files of its own; three on two cores, for most tests wait more than they compute.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile

fuzz: $(STAMP)
	PRAXINO_FUZZ_EXAMPLES=5000 PRAXINO_LIVES=200 $(BIN)/python -m pytest \
		tests/service/test_conformance.py tests/service/test_lives.py

chaos: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos --jobs 500 --seed 1 --workers 3 --short-times

# What several workers gain, what a long queue and checkpoints cost; wants a quiet machine.
fleet: $(STAMP)
	OMP_NUM_THREADS=2 $(BIN)/python -m tests.fleetbench

# What the adapters of open weights cost and gain beside plain diffusers; wants a quiet machine.
open: $(STAMP)
	$(BIN)/python -W ignore -m tests.openbench

# Seconds a step, memory, FLOPs; for a GPU to itself. Exits with 2 where there is none.
gpu: $(STAMP)
	@$(BIN)/python -W ignore -m tests.gpubench

containers: $(STAMP)
	$(BIN)/python -m tests.containers

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@sh audit.sh $(VENV)

audit: $(STAMP)
	@sh audit.sh $(VENV)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
