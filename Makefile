# `make demo` and `make test` set up all they need, in .venv; nothing else has to be installed first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo

.PHONY: demo test check lint types format docs clean

demo: $(VENV)/.package
	$(BIN)/cflow-ad demo $(DEMO)

test: $(VENV)/.developer check
	$(BIN)/pytest -n auto

check: lint types

lint: $(VENV)/.developer
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.developer
	$(BIN)/mypy

format: $(VENV)/.developer
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The manual as HTML, with the reference of the Python API: build/manual/index.html.
docs: $(VENV)/.developer
	$(BIN)/python docs/build.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache

# A stamp is made last, so that an install that was cut short is done again.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$@ -m pip install --quiet --disable-pip-version-check "pip>=25.1"

$(VENV)/.package: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[train]' -c constraints.txt
	touch $@

$(VENV)/.developer: $(VENV)/.package
	$(BIN)/python -m pip install --quiet --editable '.[train,export,formats,bayer,station,postgres,mqtt,opcua,modbus,parquet,video,usb-camera,basler,fleet,ray-serve]' --group dev -c constraints.txt
	touch $@
