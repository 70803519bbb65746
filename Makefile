# The commands of this project. Each makes .venv first if it is missing or older than the lock.
#
#   make repro    from nothing, or from whatever has changed, to reports/metrics.json
#   make predict  what the model says of IMAGES=a file or a folder of them; INVERT=each or never inverts each dark on
#                 light (or opposite), or none; PLACE=yes cuts out, scales and centres a drawing as MNIST's digits are
#   make card     what is known of the model, for whoever is handed it: reports/model_card.md
#   make export   the model as ONNX, as ONNX in 8 bits and in torch.export's format: models/model.onnx and others
#   make demo     a page on which to draw a digit and see what the model says: reports/demo/ (needs npm)
#   make test     every test
#   make torture  the long ones: hundreds of interrupted runs, thousands of damaged files; ends with their counts
#   make plots    the plots as one page that needs no network, dvc_plots/index.html; beside those of BASE=main if asked
#   make report   what this change does to the results, against BASE=main: report.md
#   make verify   whether the last commit's results come out again, run from nothing in a clone of their own
#   make sweep    a grid of experiments, NAME=learning-rate, or PART=1/2 of it, JOBS=2 at a time; ends with a table
#   make table    the experiments of this commit with their scores, best first
#   make bench    how long things take, beside others and the least possible: benchmarks/results.md (15 minutes)
#   make scale    what the stages take for up to 7 million images: benchmarks/scale.md (5 minutes, 20 GB of disk)
#   make check    lint, format and types; the workflows, too
#   make schema   params.schema.json, after a change of a stage's parameters
#   make docs     the tables in docs/parameters.md and docs/datasets.md, after a change of parameters or data sets
#   make lock     requirements.lock, after a change of pyproject.toml (needs uv)
#   make help     this list

PYTHON ?= python3
BASE ?=
NAME ?= learning-rate
PART ?= 1/1
JOBS ?= 1
IMAGES ?=
INVERT ?= auto
PLACE ?=
# As they are, to the shell's variables: a name may hold what make or a shell would run.
override export BASE := $(value BASE)
override export NAME := $(value NAME)
override export PART := $(value PART)
override export JOBS := $(value JOBS)
override export IMAGES := $(value IMAGES)
override export INVERT := $(value INVERT)
BIN := .venv/bin
INSTALLED := .venv/installed-from-lock
TEMPLATE := .dvc/plots/offline.html
RUNTIME := demo/node_modules/.package-lock.json
# DVC runs each stage as `python -m stages.NAME`: that python has to be the one of .venv.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro predict card export demo test torture plots report verify sweep table bench scale check schema docs lock help

repro: $(INSTALLED)
	@$(BIN)/dvc repro

predict: $(INSTALLED)
	@$(BIN)/python -m commands.predict --invert "$$INVERT" $(if $(filter-out no 0 false,$(PLACE)),--place) -- "$$IMAGES"

card: $(INSTALLED)
	@$(BIN)/python -m commands.card

export: $(INSTALLED)
	@$(BIN)/python -m commands.export

demo: $(RUNTIME) export
	@$(BIN)/python -m commands.demo

test: $(INSTALLED)
	@! command -v npm > /dev/null || $(MAKE) --silent $(RUNTIME) || echo 'Without the tests in a browser.'
	@$(BIN)/pytest

torture: $(INSTALLED)
	@$(BIN)/pytest --torture -m torture

plots: $(TEMPLATE)
	@$(BIN)/dvc plots $(if $(BASE),diff,show) --html-template $(TEMPLATE) $(if $(BASE),-- "$$BASE")

report: $(INSTALLED)
	@$(BIN)/python -m experiments.report -- "$${BASE:-main}"

verify: $(INSTALLED)
	@$(BIN)/python -m experiments.verify

sweep: $(INSTALLED)
	@$(BIN)/python -m experiments.sweep --part="$$PART" --jobs="$$JOBS" -- "$$NAME"

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
	@command -v npm > /dev/null || { echo 'npm is not installed: it brings onnxruntime-web to the demo'; exit 1; }
	@npm ci --prefix demo --ignore-scripts --no-audit --no-fund --silent
	@touch $@

lock:
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
	    --extra export --extra plots --extra s3 --group dev pyproject.toml --output-file requirements.lock

.venv: $(INSTALLED)

$(INSTALLED): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " \
	    + sys.version.split()[0] + "; name another one with: make PYTHON=python3.12 repro")'
	@echo 'Installing into .venv from requirements.lock, once (on Linux 6.2 GB with the CUDA build of torch, minutes)'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@touch $@
	@echo 'Installed. For the commands dvc and python of this project in your shell: . .venv/bin/activate'
