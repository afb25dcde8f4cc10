# `make` lists the targets. Variables on the command line become flags of the program; those of the environment do not,
# because the environment names places and secrets, never science.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

BENCHMARK = digits
EXTRAS = all,test

# PYTHON=/path/to/python or PYTHON=/path/to/environment: use what is there and leave its torch alone.
ifeq ($(origin PYTHON),command line)
PY := $(or $(wildcard $(PYTHON)/bin/python),$(PYTHON))
else
PY := .venv/bin/python
endif

# Installed once: the stamp counts only while the environment imports robustft from this folder.
STAMP := .make/installed$(subst /,-,$(PY)-$(EXTRAS))
FOUND := $(shell $(PY) -c 'import os, robustft.results as r; print(os.path.realpath(r.__file__))' 2>/dev/null)
ifneq ($(FOUND),$(realpath results/__init__.py))
.PHONY: $(STAMP)
endif

KNOWN := BENCHMARK METHOD BACKBONE SEEDS SET LIMIT ALLOW_PARTIAL RULE RECIPE JOBS RUNS DATA DEVICE WORKERS EXECUTOR PROFILE PACK DRY_RUN EXTRAS PYTHON
typed = $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
$(foreach name,$(filter-out $(KNOWN) MAKE%,$(typed)),$(error unknown variable $(name)=; known: $(KNOWN)))

given = $(if $(findstring command line,$(origin $(1))),$($(1)))
flag = $(if $(call given,$(1)),--$(2) '$(call given,$(1))')
FLAGS = $(call flag,METHOD,method) $(call flag,BACKBONE,backbone) $(call flag,RECIPE,recipe) \
	$(call flag,RUNS,runs) $(call flag,DATA,data) $(call flag,JOBS,jobs) $(call flag,DEVICE,device) \
	$(call flag,WORKERS,workers) $(call flag,PROFILE,profile) $(call flag,PACK,pack) \
	$(call flag,EXECUTOR,executor) $(if $(call given,DRY_RUN),--dry-run)
SWEEP_FLAGS = $(FLAGS) $(call flag,SEEDS,seeds) $(call flag,LIMIT,limit) $(call flag,RULE,rule) \
	$(if $(call given,ALLOW_PARTIAL),--allow-partial) $(foreach pair,$(call given,SET),--set '$(pair)')
# A folder of links, laid out as the package is installed: for what reads files and does not import them.
LINKS = rm -rf .make/links && mkdir -p .make/links/robustft && cd .make/links/robustft && \
	ln -s ../../../robustft/{__init__.py,py.typed} ../../../{backbones,benchmarks,datasets,methods,results} .
ROBUSTFT = $(PY) -m robustft.benchmarks
# Compiled files are kept, also where the environment says otherwise: each process that a test starts reads them.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(PY) -m pytest

.PHONY: help
help: ## this list
	@echo "make TARGET [VARIABLE=value ...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "First steps:  make sweep METHOD=tracer"
	@echo "PYTHON=/path uses an existing environment instead of .venv and leaves its torch alone."

.PHONY: install
install: $(STAMP) ## make .venv and install robustft with pinned dependencies (done by every other target)

$(STAMP): pyproject.toml constraints.txt
	@mkdir -p .make
ifeq ($(origin PYTHON),command line)
	@# torch stays as it is; what else is there stays unless it is too old; what is missing comes from constraints.txt.
	@$(PY) -m pip list --format=freeze | awk -F '==' \
		'function name(s) { s = tolower(s); gsub(/[-_.]+/, "-", s); return s } \
		NR == FNR { here[name($$1)] = 1; if (name($$1) ~ /^(torch|torchvision|torchaudio|triton|nvidia-.*)$$/) print; next } \
		!(name($$1) in here)' - constraints.txt > .make/constraints.txt
else
	@# 3.11 first: the version that constraints.txt was made with.
	@if ! [ -x $(PY) ]; then \
		for python in python3.11 python3 python3.12 python3.13 python3.10; do \
			if $$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then \
				echo "$$python -m venv .venv"; $$python -m venv .venv; break; fi; done; fi
	@[ -x $(PY) ] || { echo "make: no Python >= 3.10 with venv was found; install one or pass PYTHON=/path." >&2; exit 2; }
	@cp constraints.txt .make/constraints.txt
endif
	@echo "installing into $(PY): a few minutes the first time"
	@$(PY) -m pip install --quiet --disable-pip-version-check -c .make/constraints.txt setuptools
	@$(PY) -m pip install --quiet --disable-pip-version-check -c .make/constraints.txt --no-build-isolation \
		-e '.$(if $(EXTRAS),[$(EXTRAS)])'
	@touch '$@'

.PHONY: sweep
sweep: $(STAMP) ## run METHOD=a,b [BENCHMARK= BACKBONE= SEEDS= SET="key=value ..." LIMIT= ALLOW_PARTIAL=1 RULE= RECIPE= JOBS= RUNS= DATA= DEVICE= WORKERS= EXECUTOR=slurm PROFILE= DRY_RUN=1]
	@[ -n '$(call given,METHOD)' ] || { echo "make: sweep needs METHOD=, for example METHOD=tracer or METHOD=all." >&2; exit 2; }
	@$(ROBUSTFT) sweep $(BENCHMARK) $(SWEEP_FLAGS)

.PHONY: tune
tune: $(STAMP) ## try the suite's settings on validation data and keep the chosen ones [METHOD= BACKBONE= JOBS= RUNS=]
	@$(ROBUSTFT) tune $(BENCHMARK) $(FLAGS)

.PHONY: status
status: $(STAMP) ## what is done, running, waiting or failed, and why [RUNS=]
	@$(ROBUSTFT) status $(call flag,RUNS,runs)

.PHONY: leaderboard
leaderboard: $(STAMP) ## gather all records into results/leaderboard.csv, _long.csv, .md, .tex and .html [BENCHMARK= RUNS=]
	@$(ROBUSTFT) leaderboard $(BENCHMARK) $(call flag,RUNS,runs)

.PHONY: report
report: $(STAMP) ## write all results as one HTML file, results/report.html [BENCHMARK= RUNS=]
	@$(ROBUSTFT) report $(call given,BENCHMARK) $(call flag,RUNS,runs)

.PHONY: reference
reference: $(STAMP) ## run everything with five seeds under both rules and write results/reference/BENCHMARK (hours)
	@for rule in one_se best_id; do \
		$(ROBUSTFT) sweep $(BENCHMARK) --method all --seeds 0-4 --rule $$rule $(call flag,RUNS,runs) $(call flag,JOBS,jobs); done
	@$(PY) -m robustft.results.release.publish_reference $(BENCHMARK) $(call flag,RUNS,runs)
	@$(PY) -m robustft.results.release.readme_tables

.PHONY: readme
readme: $(STAMP) ## make the README's table, the reference's boards and their pictures again from the committed records
	@$(PY) -m robustft.results.release.readme_tables

.PHONY: docs
docs: ## build the documentation into build/site; a dead link or an undocumented public name fails
	@$(MAKE) --no-print-directory install EXTRAS=all,test,docs
	@$(LINKS)
	@# Not --quiet: it hides warnings from the count that makes `strict` fail.
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build
	@echo "wrote build/site/index.html"

.PHONY: pretrain
pretrain: $(STAMP) ## make the bundled backbones again (25 minutes of one core for digits, 5 to 7 for each of glyphs)
	@$(PY) -m robustft.benchmarks.maintenance.pretrain
	@$(PY) -m robustft.benchmarks.maintenance.pretrain_glyphs

.PHONY: glyphs
glyphs: $(STAMP) ## fetch the typefaces of the glyphs benchmark, draw their masks and compare them with the committed ones (10 minutes, Debian with npm)
	@$(PY) -m robustft.benchmarks.maintenance.glyphs

.PHONY: test
test: $(STAMP) ## all tests but those of the targets below
	@$(PYTEST) -q -n 2 --dist worksteal -m 'not programs and not faults and not slurm and not browser'

.PHONY: test-programs
test-programs: $(STAMP) ## the program as it is started: printed commands in a clone and from a wheel, workers, torchrun, a notebook
	@$(PYTEST) -q -n 2 --dist worksteal -m 'programs and not faults'

.PHONY: test-processors
test-processors: $(STAMP) ## the tests that compute, verify of the references among them, with vector extensions off
	@OMP_NUM_THREADS=1 $(PY) tests/processors.py $(PY) -m pytest -q -n 2 --dist worksteal -m computes

.PHONY: test-faults
test-faults: $(STAMP) ## kill real processes and compare what they leave
	@$(PYTEST) -q -n 2 --dist worksteal -m faults

.PHONY: test-browser
test-browser: $(STAMP) ## the report in a headless Chromium (Debian's package chromium)
	@$(PYTEST) -q -m browser

.PHONY: test-slurm
test-slurm: $(STAMP) ## preempt, kill and requeue runs on SLURM clusters of one node and of two (root; apt-get install slurm-wlm munge)
	@$(PYTEST) -q -m slurm

.PHONY: test-gpu
test-gpu: $(STAMP) ## on a GPU, in at most 8 minutes: what nobody can know without one, and how fast it is there; writes gpu.json
	@$(PY) tests/gpu/quarter_hour.py --out gpu.json

.PHONY: soak
soak: $(STAMP) ## 100 runs under 50 random faults, here and on a SLURM cluster where one can be brought up (an hour)
	@OMP_NUM_THREADS=1 $(PY) tests/soak.py

.PHONY: speed
speed: $(STAMP) ## how fast the parts are, as ratios within one run; minutes on two idle cores, told for each
	@$(PY) -m robustft.benchmarks.speed

.PHONY: lint
lint: $(STAMP) ## ruff
	@$(PY) -m ruff check .

.PHONY: types
types: $(STAMP) ## mypy, in a folder of links that is laid out as the package is installed
	@$(LINKS)
	@cd .make/links && $(if $(findstring /,$(PY)),$(abspath $(PY)),$(PY)) -m mypy --config-file ../../pyproject.toml

.PHONY: format
format: $(STAMP) ## sort imports and format
	@$(PY) -m ruff check --select I --fix .
	@$(PY) -m ruff format .

.PHONY: check
check: lint types docs test test-programs test-processors test-faults test-slurm test-browser ## what CI runs

.PHONY: clean
clean: ## remove caches and generated boards; environments and runs stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis $(addprefix results/leaderboard,.csv _long.csv _models.csv _published.csv .md .tex .html)
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
