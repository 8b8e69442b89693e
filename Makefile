# Everything that a developer needs. `make demo` and `make test` work on a machine with Python 3.11 or newer, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help install demo test check format clean

help:
	@echo "make install   Finery in $(VENV)"
	@echo "make demo      fine-tune a small real chat model and show its answers before and after"
	@echo "make test      all tests"
	@echo "make check     format, lint, types, floors"
	@echo "make format    write the format that check wants"
	@echo "make clean     remove $(VENV)"

install: $(VENV)/finery

demo: $(VENV)/finery
	$(BIN)/finery demo

test: $(VENV)/dev
	$(BIN)/python -m pytest

check: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/contracts/test_floors.py

format: $(VENV)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV)

# One stamp a step, so a second `make` starts at once and a broken download goes on where it broke.
# torch comes alone and first: it is the large one, and what follows must not choose another.
$(VENV)/torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Finery needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
		{ echo "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(INSTALL) torch
	@touch $@

$(VENV)/finery: $(VENV)/torch pyproject.toml
	$(INSTALL) --editable .
	@touch $@

$(VENV)/dev: $(VENV)/finery
	$(INSTALL) --group dev
	@touch $@
