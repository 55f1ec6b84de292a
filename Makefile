# Every stage is one line: python -m pipeline STAGE, or python -m kernels_kaggle STAGE for Kaggle.
# `make` alone lists the targets.

# What may be named on make's command line, and what it is where it is not.
NAMES := BESIDE CHALLENGES DIFFICULTY FLOP FROM GPU HOURS INPUTS JSON KEEP MESSAGE MINUTES NODES NOTEBOOK NPROC PAIRS PIECE \
	PRECISION PYTHON RECIPE RUN SEED SET SOLUTIONS STEPS SUBMISSION TASK TASKS TO VIEWS VOTES WHEELS YES
DIFFICULTY ?= 0,0.2
FLOP ?= 0
GPU ?= h100
HOURS ?= 0
INPUTS ?= 100000
MINUTES ?= 30
NODES ?= 1
NOTEBOOK ?= predict
NPROC ?= 1
PAIRS ?= 100
PIECE ?= 0
PRECISION ?= float32
PYTHON ?= python3
SEED ?= 0
STEPS ?= 1,2,4,8,16
VIEWS ?= 1,8,32,128

# Each reaches the commands below as it was typed, in the environment: neither make nor the shell reads its signs.
$(foreach name,$(NAMES),$(eval override export $(name) := $$(value $(name))))

UNKNOWN := $(strip $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name))))
$(if $(UNKNOWN),$(error $(UNKNOWN) is not known; choose from $(NAMES)))
MOST_PROCESSES := 64
$(if $(filter-out 1,$(words $(NPROC) $(filter-out $(shell seq $(MOST_PROCESSES)),$(NPROC)))),\
	$(error NPROC must be 1 to $(MOST_PROCESSES) processes, got $(NPROC)))

# For Kaggle the recipe is that of the competition, unless another is named.
NAMED_RECIPE := $(RECIPE)
override RECIPE := $(or $(NAMED_RECIPE),arc1-fast)
package push status submit: override RECIPE := $(or $(NAMED_RECIPE),kaggle)

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev
LAUNCH := $(if $(filter 1,$(NPROC)),$(PY),$(VENV)/bin/torchrun --standalone --max-restarts 3 --nproc-per-node $(NPROC)) -m pipeline
THE_RUN := --run-name "$${RUN:-$$RECIPE}"
ARGUMENTS := --recipe "$$RECIPE" $(THE_RUN) --set "$$SET"
SCORE_FILES := $(if $(SUBMISSION),--submission "$$SUBMISSION" --challenges "$$CHALLENGES" \
	--solutions "$$SOLUTIONS" $(if $(VOTES),--votes "$$VOTES"),$(THE_RUN))

# The programs that measure: they import the packages, and the oracle of the tests.
EXPERIMENT := PYTHONPATH=.:tests $(PY) experiments

# Tests are shared among processes, file by file; the few slow ones of one file, test by test.
SHARED := -n auto --maxprocesses 4

GPU_FOLDERS := --to "$${TO:-runs/gpu-state}" $(if $(FROM),--from "$$FROM") $(if $(WHEELS),--wheels "$$WHEELS")

.DEFAULT_GOAL := help
.PHONY: help setup data rearc build plan pretrain predict evaluate sweep export score report show settings package push status submit \
	test kernel-test lint chaos fuzz deadlines bench gpu experiment clean

help: ## List the targets
	@echo 'make TARGET [RECIPE=arc1-fast] [RUN=name] [SET="train.lr=3e-4 predict.num_views=64"] [NPROC=1]'
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F '\t' '{printf "  %-11s %s\n", $$1, $$2}'

$(READY): requirements.txt
	"$$PYTHON" -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(READY_DEV): requirements-dev.txt $(READY)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

setup: $(READY) ## Make .venv with everything a run needs

data: $(READY) ## Print what each source of tasks holds; fetch what is missing
	@$(PY) -m pipeline data

rearc: $(READY) ## Write fresh pairs of ARC-1 tasks to TO= [PAIRS=100 DIFFICULTY=0,0.2 SEED=0 TASKS=id,id]
	@$(PY) -m pipeline rearc --to "$$TO" --pairs "$$PAIRS" --difficulty "$$DIFFICULTY" --seed "$$SEED" \
		--tasks "$$TASKS"

build: $(READY) ## Write the data set: tasks and the plan of their views
	@$(PY) -m pipeline build $(ARGUMENTS)

plan: $(READY) ## Print what RECIPE takes on GPU=h100, l4x4, cpu [NODES=]; what to train for FLOP= or HOURS=
	@$(PY) -m pipeline plan --recipe "$$RECIPE" --set "$$SET" --gpu "$$GPU" --nodes "$$NODES" \
		--flop "$$FLOP" --hours "$$HOURS"

pretrain: $(READY) ## Train; the same command goes on where it stopped
	@$(LAUNCH) pretrain $(ARGUMENTS)

predict: $(READY) ## Answer the tasks: runs/RUN/submission.json, and the score
	@$(LAUNCH) predict $(ARGUMENTS)

evaluate: $(READY) ## Answer the puzzles of RECIPE=sudoku-small, sudoku, maze: runs/RUN/evaluation
	@$(LAUNCH) evaluate $(ARGUMENTS)

sweep: $(READY) ## Score RECIPE by number of VIEWS= and of supervision STEPS=: runs/RUN/sweep.json
	@$(LAUNCH) sweep $(ARGUMENTS) --views "$$VIEWS" --steps "$$STEPS"

export: $(READY) ## Copy the weights of RUN, without what only training needs, to TO= [PRECISION=float16]
	@$(PY) -m pipeline export $(THE_RUN) --to "$$TO" --precision "$$PRECISION"

score: $(READY) ## Score RUN, or SUBMISSION= CHALLENGES= SOLUTIONS= [VOTES=]; JSON=1 prints JSON
	@$(PY) -m pipeline score $(SCORE_FILES) $(if $(JSON),--json)

report: $(READY) ## Write the page of RUN [BESIDE="other runs"]: runs/RUN/report/index.html
	@$(PY) -m pipeline report $(THE_RUN) --beside "$$BESIDE"

show: $(READY) ## Draw TASK= in the terminal, of RUN= with its attempts
	@$(PY) -m pipeline show --task "$$TASK" --run-name "$$RUN"

settings: $(READY) ## Print every setting of RECIPE: name, value, meaning
	@$(PY) -m pipeline settings --recipe "$$RECIPE" --set "$$SET"

package: $(READY) ## To Kaggle, 1: write data set and NOTEBOOK=predict|pretrain of RUN: runs/RUN/kaggle
	@$(PY) -m kernels_kaggle package $(ARGUMENTS) --notebook "$$NOTEBOOK"

push: $(READY) ## To Kaggle, 2: upload the package of RUN; the notebook then runs there
	@$(PY) -m kernels_kaggle push $(THE_RUN)

status: $(READY) ## To Kaggle, 3: follow the notebook of RUN, fetch its log and output
	@$(PY) -m kernels_kaggle status $(THE_RUN)

submit: $(READY) ## To Kaggle, 4: submit that version, after a question; YES=1 asks none [MESSAGE=]
	@$(PY) -m kernels_kaggle submit $(THE_RUN) --message "$$MESSAGE" $(if $(filter 1,$(YES)),--yes)

test: $(READY_DEV) ## Run all tests but those of kernel-test
	$(PY) -m pytest -q $(SHARED) --dist loadfile

kernel-test: $(READY_DEV) ## Execute the notebooks as Kaggle does, without a network
	$(PY) -m pytest -q -m kernel $(SHARED) --dist load

lint: $(READY_DEV) ## Check style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

chaos: $(READY) ## Try kills and faults on 200 runs in an hour, on four kinds of machine
	$(EXPERIMENT)/chaos.py

fuzz: $(READY) ## Try hostile inputs against an oracle in 5 minutes [INPUTS=100000 SEED=0 KEEP=folder]
	$(EXPERIMENT)/fuzz/fuzz.py --inputs "$$INPUTS" --seed "$$SEED" $(if $(KEEP),--keep "$$KEEP")

deadlines: $(READY) ## Try 20 time limits in 25 minutes
	$(EXPERIMENT)/deadlines.py

bench: $(READY) ## Measure speed on the CPU in 5 minutes: runs/bench/cpu.json
	$(EXPERIMENT)/bench.py cpu

# With wheels, on a machine without a network, Python is the one that has torch.
gpu: $(if $(WHEELS),,$(READY)) ## Use a card for MINUTES=30: checks, rates, training, score, [PIECE=9] at a time
	$(if $(WHEELS),"$$PYTHON",$(PY)) experiments/gpu.py --minutes "$$MINUTES" --piece-minutes "$$PIECE" --set "$$SET" $(GPU_FOLDERS)

experiment: $(READY) ## Compare recipes at equal compute, hours on 2 cores: runs/experiment/table.md
	OMP_NUM_THREADS=1 $(EXPERIMENT)/compare.py

clean: ## Remove .venv and caches; runs/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
