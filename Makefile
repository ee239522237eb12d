# make setup    creates .venv with the pinned packages and the package itself (ops compiled where there is a compiler)
# make demo     compares a single-frame detector and RDN, trained ones that come with vod2, on videos new to both
# make demo-train  makes synthetic videos, trains a single-frame detector and RDN on them, compares both, draws a video
# make test     runs the test suite
# make test-all runs the slow tests, too, and ten times as many examples of strange input
# make lint     checks style, format and types
# make docs     builds the site of the documents, output/site/index.html
# make clean    removes what the others made

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
SOURCES := setup.py pyproject.toml constraints.txt $(wildcard vod2/csrc/*.* vod2/csrc/*/*.*)

# Two worker processes share the cores; more threads in each would only compete.
TEST_FLAGS ?= -n 2

DOCS_VENV := output/docs_venv
DOCS_RUN := $(DOCS_VENV)/bin/python

.PHONY: setup demo demo-train test test-all lint docs clean

setup: $(STAMP)

# PyTorch comes first: the ops are compiled against it, in this environment and not in an isolated one.
$(STAMP): $(SOURCES)
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -c constraints.txt setuptools wheel ninja torch torchvision
	$(RUN) -m pip install -c constraints.txt --no-build-isolation -e ".[test]"
	$(RUN) -c "from vod2.ops import compiled_device_types as types; print('compiled ops for:', *types() or ['none'])"
	touch $@

demo: $(STAMP)
	$(RUN) tools/run_demo.py --output output/demo

demo-train: $(STAMP)
	$(RUN) tools/run_demo.py --train --output output/demo_training

test: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests -m "not slow" $(TEST_FLAGS)

test-all: $(STAMP)
	OMP_NUM_THREADS=1 VOD2_FUZZ_TIMES=10 $(RUN) -m pytest tests $(TEST_FLAGS)

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

docs: $(DOCS_VENV)/.installed
	$(DOCS_RUN) -m mkdocs build --strict

# Of the extra "docs" alone, in an environment of its own: the sources are read and not imported, so PyTorch is not needed.
$(DOCS_VENV)/.installed: setup.py constraints.txt
	test -x $(DOCS_RUN) || $(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_RUN) -m pip install -c constraints.txt $$(sed -n 's/^    "docs": \[\(.*\)\].*/\1/p' setup.py | tr -d '",')
	touch $@

clean:
	rm -rf $(VENV) build dist output *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis vod2/_C*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
