# Everything rests on .venv; each target does its own set-up, and a second call reuses it.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3.11)
BIN := .venv/bin
# Of the small stores of all tests: the demo's, or mbt2018-mean.
CODEC ?= demo
# Two cores are assumed, and tests must not fight over them; waiting threads sleep instead of
# spinning, which on shared cores is several times faster. A third worker works while others wait
# for their children.
QUIET := OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0

.PHONY: setup demo test test-slow lint docs clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: setup
	$(QUIET) $(BIN)/python -m pipelines.demo --output demo-output

test: setup lint
	$(QUIET) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 3 --dist loadfile -m "not slow and not gpu" \
		--codec $(CODEC)

test-slow: setup
	$(QUIET) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "slow" --codec $(CODEC)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Pages to read without a network, in site/.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

clean:
	rm -rf .venv demo-output site
