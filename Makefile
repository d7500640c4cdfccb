# Two commands on a fresh machine do all set-up: `make demo` and `make test`.
VENV ?= .venv
PY := $(VENV)/bin/python
PIP := $(VENV)/bin/pip
DATA ?= digits
STAMP := $(VENV)/.ready
NATIVE := $(shell find native CMakeLists.txt -type f 2>/dev/null)

.PHONY: setup demo test test-all lint docs fuzz clean
setup: $(STAMP)

$(VENV)/.deps: pyproject.toml
	test -x $(PY) || python3 -m venv $(VENV)
	$(PIP) install -q --upgrade pip
	$(PIP) install -q torch==2.13.0
	$(PIP) install -q scikit-build-core nanobind ninja cmake
	touch $@

$(STAMP): $(VENV)/.deps $(NATIVE) pyproject.toml
	$(PIP) install -q --no-build-isolation -e ".[train,test,images,plots]"
	touch $@

demo: $(STAMP)
	$(PY) -m picojoule.cli.main demo --data $(DATA)

lint: $(STAMP)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright

test: lint
	$(PY) -m pytest -m "not slow and not gpu"

test-all: lint
	$(PY) -m pytest

docs: $(STAMP)
	$(PIP) install -q -e ".[docs]" --no-build-isolation
	$(VENV)/bin/mkdocs build --strict

clean:
	rm -rf build dist site $(VENV)
