# `make demo` and `make test` need nothing but this folder and a Python: they make $(VENV) first.
VENV ?= .venv
PYTHON ?=
ARGS ?=

RUN = "$(VENV)/bin/python" -m

.DEFAULT_GOAL := help
.PHONY: help demo weights test lint format install clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile
	@echo 'ARGS="..." goes on to mge demo or pytest; VENV=folder and PYTHON=python3.11 choose the environment.'

demo: install ## the weights that ship, on a song that they never saw, in demo/
	@"$(VENV)/bin/mge" demo $(ARGS)

weights: install ## the weights that ship, made anew from a seed, in build/weights/ (hours)
	@"$(VENV)/bin/mge" make-weights --work build/weights --out build/weights/minislakh $(ARGS)

test: lint ## ruff check, ruff format --check, pytest
	@$(RUN) pytest $(ARGS)

lint: install ## ruff check, ruff format --check
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .

format: install ## mend what ruff can mend
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

install: ## make the environment, or bring it up to date
	@PYTHON="$(PYTHON)" tools/install.sh "$(VENV)"

clean: ## remove the environments, what was built and demo/
	rm -rf .venv .venv-py310 .venv-py311 build dist *.egg-info demo .pytest_cache .ruff_cache
	find mge_plugin tests benchmarks examples tools -name __pycache__ -type d -prune \
	    -exec rm -rf {} +
