# Every target works on a bare clone with Python 3.11 or newer; the first one called makes the environment from the lock,
# constraints.txt: the tested versions of every package.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PRETRAINED ?= out/pretrain
COMPILE := pyproject.toml --all-extras --python-version 3.11 --upgrade --no-annotate --quiet \
	--custom-compile-command "make lock"

.PHONY: demo test test-slow fuzz test-oldest test-latest lint docs notebook lock install pretrain scores-tiny
.DEFAULT_GOAL := help

help:
	@echo "make demo       teach the embedded model to translate signs, and open runs/demo/report.html"
	@echo "make test       the fast tests        make test-slow   the others       make lint   ruff and mypy"
	@echo "make fuzz       200,000 inputs for every fuzzer in tests/fuzz; NEUROGLOT_FUZZ=N for another number"
	@echo "make test-oldest, make test-latest   the tuner's tests with the oldest and newest packages that pyproject.toml allows"
	@echo "make docs       the documentation site, in site/        make notebook   run its example anew"
	@echo "make lock       resolve the tested versions anew"
	@echo "make pretrain   train the embedded model from scratch (hours)"

$(BIN)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

install: $(BIN)/.installed

demo: install
	$(BIN)/neuroglot demo

test: install
	$(BIN)/python -m pytest -m "not slow" -n auto --dist loadscope

test-slow: install
	$(BIN)/python -m pytest -m slow -n auto --dist loadscope --no-loadscope-reorder --durations=25

fuzz: install
	NEUROGLOT_FUZZ=$${NEUROGLOT_FUZZ:-200000} $(BIN)/python -m pytest tests/fuzz -s

# torch stays at the tested version: of no other is a CPU build at hand where these tests were made.
.venv-oldest/.installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet -c constraints-oldest.txt -e ".[dev]"
	touch $@

test-oldest: .venv-oldest/.installed
	.venv-oldest/bin/python -m pytest tests/tuner -m "not slow" -n auto --dist loadscope

test-latest:
	$(PYTHON) -m venv --clear .venv-latest
	.venv-latest/bin/python -m pip install --quiet "$$(grep ^torch== constraints.txt)" -e ".[dev]"
	.venv-latest/bin/python -m pytest tests/tuner -m "not slow" -n auto --dist loadscope

# For Python 3.11 to 3.13, all platforms.
lock: install
	$(BIN)/python -m pip install --quiet "uv>=0.9,<1"
	$(BIN)/uv pip compile $(COMPILE) --universal --output-file constraints.txt
	$(BIN)/uv pip compile $(COMPILE) --resolution lowest-direct --output-file constraints-oldest.txt

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/.docs: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	touch $@

# Warnings are errors. The variable silences an advertisement of the theme.
docs: $(BIN)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

notebook: install
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[notebook]"
	PYTHONWARNINGS=ignore $(BIN)/jupytext --to ipynb --set-kernel python3 --execute docs/examples/signs.py

pretrain: install
	$(BIN)/python -m neuroglot.models.tiny.pretrain --out $(PRETRAINED)

scores-tiny: install
	$(BIN)/python benchmarks/tiny.py --json out/tiny.json
