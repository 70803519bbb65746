# The commands of this project. Each installs .venv first if it is missing or older than requirements.lock.
#
#   make repro    run the stages that have changed, up to reports/metrics.json
#   make run      run an experiment with the parameters of a preset, PRESET=accurate; they are in experiments/presets.yaml;
#                 SEEDS=5 runs it with five seeds, JOBS=2 two at a time
#   make predict  predict IMAGES=file or folder; INVERT=each inverts every image that is dark on light where training
#                 images are light on dark (or opposite), INVERT=never none; PLACE=yes crops, scales and centres drawings
#   make card     write the model card: reports/model_card.md
#   make export   export the model as ONNX, 8-bit ONNX and in torch.export's format: models/model.onnx and others
#   make demo     build a page that classifies a drawn digit: reports/demo/ (needs npm)
#   make test     run the tests
#   make torture  run the long tests: hundreds of interrupted runs, thousands of damaged files
#   make plots    draw the plots as a page that needs no network, dvc_plots/index.html; BASE=main adds those of main
#   make report   compare the results with BASE=main: report.md
#   make verify   check whether a run from nothing, in a clone, gives the results of the last commit
#   make portable  prove that portable arithmetic gives the same bits in many surroundings (an hour with emulators)
#   make sweep    run a grid of experiments, NAME=learning-rate; PART=1/2 runs half of it, JOBS=2 two at a time,
#                 PRESET=cnn starts from a preset, CLUSTER=tcp://host:8786 runs it on a Dask cluster
#   make table    list the experiments of this commit with their scores, best first
#   make bench    measure run times against other tools and lower bounds: benchmarks/results.md (20 minutes)
#   make scale    measure the stages with up to 7 million images: benchmarks/scale.md (5 minutes, 20 GB of disk)
#   make check    check lint, format and types, and the workflows
#   make schema   write params.schema.json, after a change of a stage's parameters
#   make docs     write the tables in docs/parameters.md and docs/datasets.md, after a change of parameters or data sets
#   make lock     write requirements.lock, after a change of pyproject.toml (needs uv)
#   make help     print this list

PYTHON ?= python3
BASE ?=
NAME ?= learning-rate
PART ?= 1/1
PRESET ?=
JOBS ?= 1
SEEDS ?= 1
IMAGES ?=
INVERT ?= auto
PLACE ?=
# Pass the values to the shell unexpanded: make or the shell would run commands in a name.
override export BASE := $(value BASE)
override export NAME := $(value NAME)
override export PART := $(value PART)
override export JOBS := $(value JOBS)
override export SEEDS := $(value SEEDS)
override export PRESET := $(value PRESET)
override export IMAGES := $(value IMAGES)
override export INVERT := $(value INVERT)
BIN := .venv/bin
INSTALLED := .venv/installed-from-lock
TEMPLATE := .dvc/plots/offline.html
RUNTIME := demo/node_modules/.package-lock.json
# DVC runs each stage as `python -m stages.NAME`, which has to be the Python in .venv.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro run predict card export demo test torture plots report verify portable sweep table bench scale check schema docs lock help

repro: $(INSTALLED)
	@$(BIN)/dvc repro

run: $(INSTALLED)
	@$(BIN)/python -m experiments.presets --seeds="$$SEEDS" --jobs="$$JOBS" -- "$$PRESET"

predict: $(INSTALLED)
	@$(BIN)/python -m commands.predict --invert "$$INVERT" $(if $(filter-out no 0 false,$(PLACE)),--place) -- "$$IMAGES"

card: $(INSTALLED)
	@$(BIN)/python -m commands.card

export: $(INSTALLED)
	@$(BIN)/python -m commands.export

demo: $(RUNTIME) export
	@$(BIN)/python -m commands.demo

test: $(INSTALLED)
	@! command -v npm > /dev/null || $(MAKE) --silent $(RUNTIME) || echo 'npm failed: the tests in a browser are skipped'
	@$(BIN)/pytest

torture: $(INSTALLED)
	@$(BIN)/pytest --torture -m torture

plots: $(TEMPLATE)
	@$(BIN)/dvc plots $(if $(BASE),diff,show) --html-template $(TEMPLATE) $(if $(BASE),-- "$$BASE")

report: $(INSTALLED)
	@$(BIN)/python -m experiments.report -- "$${BASE:-main}"

verify: $(INSTALLED)
	@$(BIN)/python -m experiments.verify

portable: $(INSTALLED)
	@$(BIN)/python -m experiments.portable

sweep: $(INSTALLED)
	@$(BIN)/python -m experiments.sweep --part="$$PART" --jobs="$$JOBS" --preset="$$PRESET" -- "$$NAME"

table: $(INSTALLED)
	@$(BIN)/python -m experiments.table

bench: $(INSTALLED)
	@$(BIN)/python -m benchmarks.bench

scale: $(INSTALLED)
	@$(BIN)/python -m benchmarks.scale

check: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/zizmor --offline --quiet --no-progress .github/workflows

schema: $(INSTALLED)
	@$(BIN)/python -m commands.schema

docs: $(INSTALLED)
	@$(BIN)/python -m commands.docs

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

$(TEMPLATE): $(INSTALLED) experiments/plots.py
	@$(BIN)/python -m experiments.plots

$(RUNTIME): demo/package-lock.json
	@command -v npm > /dev/null || { echo 'npm is not installed; the demo needs it to install onnxruntime-web'; exit 1; }
	@npm ci --prefix demo --ignore-scripts --no-audit --no-fund --silent
	@touch $@

lock:
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
	    --extra cluster --extra export --extra plots --extra s3 --group dev pyproject.toml --output-file requirements.lock

.venv: $(INSTALLED)

$(INSTALLED): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " \
	    + sys.version.split()[0] + "; choose another one with: make PYTHON=python3.12 repro")'
	@echo 'Installing into .venv from requirements.lock, once (on Linux 6.2 GB with the CUDA build of torch, minutes)'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@touch $@
	@echo 'Installed. To use dvc and python of .venv in your shell: . .venv/bin/activate'
