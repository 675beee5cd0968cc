# Needs Python 3.11 or newer, git and make; works with GNU make from 3.81 on, on Linux and macOS.
#
#   make PYTHON=python3.12      another Python
#   make test CONSTRAINTS=      the newest versions that pyproject.toml allows, not the pinned ones
#
# Each step leaves a file behind, and is repeated when one of its sources is newer than that file.

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
WORKERS ?= auto
ROUNDS ?= 10

BIN := .venv/bin
STAMPS := _build/stamps
INSTALLED := .venv/installed
EXERCISES := $(STAMPS)/exercises
BOOK := $(STAMPS)/book
SCORES := _build/scores.txt

PACKAGE := $(shell find flowcourse -name '*.py')
PROBLEMS := $(shell find solutions -type f -not -path '*/.*' -not -name '*.ipynb')
PAGES := $(shell find book -type f -not -path '*/.*' -not -path '*/__pycache__/*')

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
# What is parallel is inside the steps; drift must be looked for before exercises are made anew.
.NOTPARALLEL:
.PHONY: all book class500 clean doctor drift exercises faults grade help lab links lint pins results status test

all: $(BOOK) $(SCORES) ## install, build the book, generate the exercises, grade a sample class
	@echo
	@cat $(SCORES)
	@echo
	@echo "To read the book, open            _build/html/index.html"
	@echo "To solve a problem set, run       make lab   and open a notebook of exercises/"
	@echo "To see the class above, open      _build/class/feedback/"
	@echo "After a change of the code, run   make test"
	@echo "For everything else, run          make help"

test: lint drift $(BOOK) ## run every check: lint, types, unit and property tests, doctests, notebooks, drift
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests flowcourse scripts solutions \
	    --doctest-modules --nbval-lax --nbval-current-env -n $(WORKERS) --dist loadfile

book: $(BOOK) ## build the book to _build/html
	@echo "Open _build/html/index.html"

exercises: $(EXERCISES) ## generate exercises/ from solutions/

grade: $(SCORES) ## grade a generated sample class with nbgrader and print its scores
	@cat $(SCORES)

class500: $(EXERCISES) ## grade 500 generated submissions, check every score, say how long it took
	$(BIN)/python -m benchmarks.class500

faults: $(EXERCISES) ## kill, lock, fill the disk and set the clock while a class is graded
	$(BIN)/python -m pytest tests/grading/faults --rounds $(ROUNDS) -s

lab: $(EXERCISES) ## open JupyterLab with nbgrader's extensions
	$(BIN)/jupyter lab

results: $(INSTALLED) ## measure again every number of book/results (minutes to hours)
	$(BIN)/python -m flowcourse results
	$(BIN)/python -m benchmarks.baselines
	$(BIN)/python -m benchmarks.tabular
	$(BIN)/python -m benchmarks.distillation
	$(BIN)/python -m benchmarks.grading
	$(BIN)/python -m benchmarks.memory

lint: $(INSTALLED) ## check style, types and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

drift: $(INSTALLED) ## check that exercises/ is what solutions/ gives, writing nothing
	$(BIN)/python -m flowcourse.grading.release --check

links: $(EXERCISES) ## check the links of the book (needs the network)
	$(BIN)/jupyter-book build . --builder linkcheck

doctor: $(INSTALLED) ## say what is installed, which device is used and what is missing
	$(BIN)/flowcourse doctor

pins: $(INSTALLED) ## write constraints.txt and environment.yml from what is installed
	$(BIN)/python -m scripts.pins

status: $(INSTALLED) ## write the README's status table from the catalog
	$(BIN)/python -m flowcourse.status

clean: ## remove what was built, but neither .venv nor your runs
	rm -rf _build .mypy_cache .pytest_cache .ruff_cache .hypothesis

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# What the targets above stand on.

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = "%d.%d" % sys.version_info[:2]; sys.version_info >= (3, 11) or sys.exit("flowcourse needs Python 3.11 or newer and $(PYTHON) is " + v + ": run make PYTHON=/path/to/a/newer/python.")'
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo "Installing into .venv: several minutes the first time."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    $(if $(CONSTRAINTS),-c $(CONSTRAINTS),--upgrade --upgrade-strategy eager) -e '.[all]'
	@touch $@

$(EXERCISES): $(INSTALLED) $(PACKAGE) $(PROBLEMS)
	$(BIN)/python -m flowcourse.grading.release
	@mkdir -p $(@D) && touch $@

$(BOOK): $(EXERCISES) $(PACKAGE) $(PAGES) _config.yml _toc.yml
	$(BIN)/jupyter-book build . -W -n --keep-going
	@mkdir -p $(@D) && touch $@

$(SCORES): $(EXERCISES) $(PACKAGE) nbgrader_config.py
	@echo "Grading a sample class with nbgrader: a few minutes."
	@mkdir -p $(@D)
	$(BIN)/python -m flowcourse.grading.sample_class > $@
