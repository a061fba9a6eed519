# The two commands of the README are `make demo` and `make test`; each sets up everything that it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Test processes, at most 8 with about 2 GB each. Each computes with one thread: more get in each other's way.
# A file's tests run in one process, to share fixtures. (`--dist loadgroup` no longer groups with pytest 9.2.)
WORKERS ?= logical
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadfile
# More than pyproject.toml selects: the tests with the marker end_to_end, too.
ALL := -m "not slow and not network and not gpu"

.PHONY: demo quick test slow check docs coverage lowest results bench clean

demo: $(READY)
	$(BIN)/ipo-dspy demo

# A third of the time of `test`: without the tests with the marker end_to_end.
quick: $(READY)
	$(PYTEST)

test: $(READY)
	$(PYTEST) $(ALL)

slow: $(READY)
	$(BIN)/python -m pytest -m slow

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python scripts/check_words.py
	$(BIN)/mypy
	$(MAKE) docs
	$(PYTEST) --doctest-modules src -q

# The site, in site/; open site/index.html. Fails on links and anchors that lead nowhere. (`--quiet` would hide them.)
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Fails below the `fail_under` of pyproject.toml.
coverage: $(READY)
	$(PYTEST) $(ALL) -q --cov --cov-report=term:skip-covered

# The lowest versions that pyproject.toml allows, in an environment of its own.
lowest: $(READY)
	$(BIN)/python scripts/lowest.py

# SIZE=full is for releases.
bench: $(READY)
	$(BIN)/python scripts/bench.py --size $(or $(SIZE),quick)

results: $(READY)
	$(BIN)/ipo-dspy bench --ray local --out runs/results
	cp runs/results/results.md docs/results.md
	$(BIN)/python scripts/bench.py recorded >> docs/results.md

clean:
	rm -rf $(VENV) .venv-lowest build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis runs site .cache

# The pinned versions are the tested ones; the torch pin keeps gigabytes of CUDA packages out.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; run e.g. make PYTHON=python3.12 demo")'
	@echo "Setting up $(VENV); the first time this takes some minutes."
	$(PYTHON) -m venv $(VENV)
	@echo "Installing torch ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@echo "Installing ipo_dspy and what else it needs ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)
