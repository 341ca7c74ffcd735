PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test check benchmark clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: .venv/light  ## score 64 synthetic phantoms through the embedded Triton ensemble
	rm -rf demo
	$(BIN)/fundus-client sample demo/images --count 64
	$(BIN)/fundus-client score demo/images --labels demo/images/labels.csv --output demo/scores.csv
	@head -n 6 demo/scores.csv | cut -d, -f1,3,6-12

test: check  ## set up everything, check the code and run all tests
	$(BIN)/python -m pytest

check: .venv/dev  ## lint, format, types and import rules only
	$(BIN)/pre-commit run --all-files

benchmark: .venv/benchmark  ## measure speed on a quiet machine, on phantoms or with IMAGES=folder; see docs/performance.md
	$(BIN)/python benchmarks/speed.py $(if $(IMAGES),--images '$(IMAGES)')

clean:  ## remove the environment and everything that was made
	rm -rf .venv demo dist

.venv/python:
	$(PYTHON) -m venv .venv
	touch $@

.venv/light: .venv/python pyproject.toml constraints.txt
	$(PIP) --editable '.[embedded]'
	touch $@

.venv/dev: .venv/python pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	touch $@

.venv/benchmark: .venv/python pyproject.toml constraints.txt
	$(PIP) --editable '.[dev,benchmark]'
	touch $@
