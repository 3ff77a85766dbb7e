# Every target sets up what it needs first: a virtual environment in .venv with exactly what requirements.lock names.
#   make demo                          near-duplicates in an album of photographs, found on a local Ray
#   make demo IMAGES=/my/photos        the same in your own pictures (they are only read)
#   make test PYTHON=python3.12        another interpreter than python3
#   make serve ARGS="--port 8080"      the duplicate scorer online, with a key that is printed (or NDD_KEY)
#   make review ARGS="found/"          label the uncertain pairs of a run in Label Studio, which it installs and starts
#   make test ARGS="-k groups -x"      anything else for pytest

PYTHON ?= python3
IMAGES ?=
ARGS ?=
VENV := .venv
PY := $(VENV)/bin/python
PYTEST := $(PY) -m pytest

export PYTHON IMAGES

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup label-studio demo serve soak review loop test test-slow lint types imports check cluster cluster-stop lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## the environment alone (every other target does it too; quick when there is nothing to do)
	@.ci/setup

demo: setup  ## find the near-duplicates in an album; IMAGES=/my/photos for your own
	@$(PY) -m pipelines demo $${IMAGES:+--images "$$IMAGES"}

serve: setup  ## the duplicate scorer on http://127.0.0.1:8000; ARGS="--port 8080 model=DIR"
	@$(PY) -m serve run $(ARGS)

soak: setup  ## ten minutes of mixed work against the server; memory and errors (ARGS="--seconds 60")
	@$(PY) -m pipelines bench serve --soak $(ARGS)

label-studio: setup  ## the labelling server in an environment of its own, .label-studio (800 MB)
	@.ci/label-studio

review: label-studio  ## label uncertain pairs in Label Studio; ARGS="found/" for the pairs of a run of find
	@$(PY) -m feedback review $(ARGS)

loop: label-studio  ## the whole loop once: find, Label Studio, retrain, promote, serve; IMAGES=/my/photos
	@$(PY) -m pipelines loop $${IMAGES:+--images "$$IMAGES"} $(ARGS)

test: setup  ## the tests (minutes; `make check` runs the slow ones and the browser too)
	$(PYTEST) -m "not browser and not slow" $(ARGS)

test-slow: setup label-studio  ## the tests that need a browser or much time
	$(PYTEST) -m "browser or slow" $(ARGS)

lint: setup  ## ruff: rules and format
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: setup  ## mypy --strict
	$(VENV)/bin/mypy

imports: setup  ## who may import whom (import-linter)
	$(VENV)/bin/lint-imports --no-logo

# One after the other, whatever -j says: the tests measure nothing, but two cores are soon full.
check: setup  ## all of it: lint, types, imports, every test
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory types
	@$(MAKE) --no-print-directory imports
	@$(MAKE) --no-print-directory test-slow ARGS="$(ARGS) --junitxml=.reports/slow.xml"
	@$(MAKE) --no-print-directory test

cluster: setup  ## start a Ray head on this machine (loopback, own token) and say how to submit jobs
	@infra/ray/cluster start

cluster-stop:  ## stop that head and nothing else
	@infra/ray/cluster stop

lock: setup  ## bring requirements.lock in line with pyproject.toml; ARGS=--upgrade for newer versions
	$(VENV)/bin/uv pip compile pyproject.toml --all-extras --group dev --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --quiet --output-file requirements.lock $(ARGS)

clean:  ## remove the environment and what the targets made (not your runs/)
	rm -rf $(VENV) .label-studio .reports dist build demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find ndd pipelines serve feedback tests -name __pycache__ -type d -prune -exec rm -rf {} +
