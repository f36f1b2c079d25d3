# Everything rests on .venv; each target does its own set-up, and a second call reuses it.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3.11)
BIN := .venv/bin
# Two cores are assumed; tests must not fight over them.
TEST_ENV := OMP_NUM_THREADS=1

.PHONY: setup demo test test-slow lint clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: setup
	$(BIN)/python -m pipelines.demo --output demo-output

test: setup lint
	$(TEST_ENV) $(BIN)/python -m pytest -q -m "not slow and not gpu"

test-slow: setup
	$(TEST_ENV) $(BIN)/python -m pytest -q -m "slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv demo-output
