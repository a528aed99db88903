# Everything a newcomer needs: `make demo` runs the main job, `make test` the suite.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test test-long check format docs bench-quick site release clean

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/oodline demo

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-long: $(STAMP)
	$(BIN)/python -m pytest -m long

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)
	$(BIN)/oodline methods --markdown > docs/methods.md

# Ratios to watch, in under three minutes; for a release add them: make bench-quick APPEND="--append docs/results/ratios.md"
bench-quick: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.cost.quick $(APPEND)

# The documentation as a site, docs/_build/html/index.html: offline; a warning or a dead link is an error
site: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[site]"
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -j 2 -b html docs docs/_build/html

# Wheel and sdist, tried in an environment of their own: bare, then each extra alone, then with the demo. Other Pythons: make release PYTHON=python3.13;
# the lowest PyTorch: make release TORCH="torch==2.6.* torchvision==0.21.*"
TRIAL := build/release/bin
TORCH ?= torch torchvision
release:
	rm -rf dist build/release
	$(PYTHON) -m venv build/release
	$(TRIAL)/pip install --quiet --disable-pip-version-check build $(TORCH)
	$(TRIAL)/python -m build --outdir dist .
	$(TRIAL)/pip install --quiet --disable-pip-version-check dist/oodline-*.whl
	$(TRIAL)/python -I .ci/bare.py
	$(TRIAL)/python .ci/extras.py dist/oodline-*.whl
	$(TRIAL)/pip install --quiet --disable-pip-version-check "oodline[demo] @ file://$(CURDIR)/$$(ls dist/oodline-*.whl)"
	cd build && release/bin/oodline demo

clean:
	rm -rf $(VENV) build dist docs/_build docs/generated .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
