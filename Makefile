# Needs Python 3.11 or newer, make and a package index. Everything is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip
# Bytecode is kept, so that hundreds of processes that tests start compile nothing again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo small test test-slow test-real reliability audit lint tables site release clean

demo: .venv/package.stamp
	$(BIN)/sharpmask propose src/sharpmask/assets/coffee.jpg --output demo
	@echo "Proposals: demo/proposals.json  Picture: demo/overlay.png"

# What the wheel alone weighs in an empty environment, and how long it takes for a photo.
small: .venv/package.stamp
	rm -rf dist
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/python benchmarks/small_install.py dist/*.whl

test: .venv/dev.stamp
	$(BIN)/pytest

# What takes minutes: every architecture in every engine, compiled torch, several processes.
test-slow: .venv/dev.stamp
	$(BIN)/pytest -m slow --dist load

# With the counterparts themselves: a browser, Ray, an object store, label tools. What is absent is skipped.
test-real: .venv/dev.stamp
	$(BIN)/pytest -m real -n 0

# The long measurements, some minutes, and one table of them.
reliability: .venv/dev.stamp
	RELIABILITY=full $(BIN)/pytest -n 0 -m reliability

# Known vulnerabilities of what is installed; asks PyPI.
audit: .venv/dev.stamp
	$(PIP) install --quiet pip-audit
	$(BIN)/pip-audit --local --skip-editable

lint: .venv/dev.stamp
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/zensical build --clean --strict

# Copies stored results and help texts into README and the pages.
tables: .venv/dev.stamp
	$(BIN)/cog -r README.md docs/*.md

# The pages as a web site, in site/.
site: .venv/dev.stamp
	$(BIN)/zensical build --clean --strict
	@echo "Open site/index.html, or: python -m http.server --directory site"

# Wheel, source archive, list of parts and hashes in dist/, checked; built twice and compared.
release: .venv/dev.stamp
	$(PIP) install --quiet --constraint constraints.txt --group release
	$(BIN)/hadolint Dockerfile
	$(BIN)/python .ci/release.py dist

clean:
	rm -rf .venv demo site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# The stamps keep the installation from being repeated until what it depends on changes.
.venv/package.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --upgrade "pip>=25.1"  # the first that knows --group
	$(PIP) install --constraint constraints.txt --editable .
	@touch $@

.venv/dev.stamp: .venv/package.stamp
	$(PIP) install --constraint constraints.txt --group dev
	@touch $@
