# Every target works on a bare clone with Python 3.11 or newer; the first one called makes the environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PRETRAINED ?= out/pretrain

.PHONY: demo test test-slow lint install pretrain scores-tiny
.DEFAULT_GOAL := help

help:
	@echo "make demo       teach the embedded model to translate signs, and open runs/demo/report.html"
	@echo "make test       the fast tests        make test-slow   the others       make lint   ruff and mypy"
	@echo "make pretrain   train the embedded model from scratch (hours)"

$(BIN)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

install: $(BIN)/.installed

demo: install
	$(BIN)/neuroglot demo

test: install
	$(BIN)/python -m pytest -m "not slow" -n auto --dist loadscope

test-slow: install
	$(BIN)/python -m pytest -m slow -n auto --dist loadscope --no-loadscope-reorder --durations=25

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

pretrain: install
	$(BIN)/python -m neuroglot.models.tiny.pretrain --out $(PRETRAINED)

scores-tiny: install
	$(BIN)/python benchmarks/tiny.py --json out/tiny.json
