# `make demo` and `make test` need this folder and uv, or Python 3.8+ with pip, or curl (tools/uv.sh).
VENV ?= .venv
PYTHON ?=
JOBS ?= 2
PLATFORM ?= linux-x86_64
ARGS ?=

RUN = "$(VENV)/bin/python" -m

.DEFAULT_GOAL := help
.PHONY: help demo weights test lint format install lock wheel wheelhouse clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile
	@echo 'ARGS="..." is passed to mge demo, pytest or tools/lock.sh. VENV=folder and PYTHON=3.11'
	@echo 'choose the environment, JOBS=4 the number of test processes.'

demo: install ## run the shipped weights on a new song; results in demo/
	@"$(VENV)/bin/mge" demo $(ARGS)

weights: install ## train the shipped weights from a seed, in build/weights/ (hours)
	@"$(VENV)/bin/mge" make-weights --work build/weights --out build/weights/minislakh $(ARGS)

test: lint ## lint, then pytest
	@OMP_NUM_THREADS=1 $(RUN) pytest -n $(JOBS) --dist loadscope --durations 25 $(ARGS)

lint: install ## ruff check, ruff format --check, mypy
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy

format: install ## repair what ruff can repair
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

install: ## make the environment, or bring it up to date
	@tools/environment.sh "$(VENV)" "$(PYTHON)"

lock: ## write locks/ from setup.cfg; ARGS=--upgrade takes the newest versions
	@tools/lock.sh $(ARGS)

wheel: ## build the wheel, in dist/
	@tools/uv.sh build --wheel --build-constraints locks/build.txt --out-dir dist

wheelhouse: install ## collect every wheel for an offline machine, in wheelhouse/
	@tools/wheelhouse.sh "$(VENV)" "$(PLATFORM)"

clean: ## remove the environments, what was built and demo/
	rm -rf .venv .venv-py310 .venv-py311 .uv build dist wheelhouse *.egg-info demo .*_cache
	find mge_plugin minislakh tests benchmarks examples tools -name __pycache__ -type d -prune \
	    -exec rm -rf {} +
