# Two commands are enough on a fresh machine: `make run` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REFERENCES := benchmarks/references
PROSE := src docs tests tools benchmarks examples fuzz sdk/js/src sdk/js/README.md packages README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md
# Three distributions of one repository; the root is the service. It stands first in an installation with its extras: the
# SFU asks for it without, and pip then takes the checkout for that too.
LISTS := pyproject.toml packages/client/pyproject.toml packages/sfu/pyproject.toml constraints.txt
PARTS := --editable packages/client --editable packages/sfu --constraint constraints.txt

# Compiling the sources takes half of a service's start, and tests start many.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# pip is what `venv` writes last.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "signal-manager needs Python 3.11 or newer; name one with: make PYTHON=python3.x")'
	@$(PYTHON) -m venv $(VENV)

# One stamp for what running needs, one for what developing needs, which is more: each is made again when the lists change.
$(VENV)/.run: $(LISTS) | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[sfu]' $(PARTS)
	@touch $@

# uv installs in a fifth of the time that pip takes. Where pip has been told of another index, which uv does not read, or
# where uv does not get through, pip does it.
$(VENV)/.dev: $(LISTS) | $(BIN)/pip
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv || true
	@{ ! $(BIN)/python -m pip config list | grep -q index-url && \
		$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[sfu,dev]' $(PARTS); } || \
		$(BIN)/python -m pip install --quiet --no-compile --editable '.[sfu,dev]' $(PARTS)
	@touch $(VENV)/.run $@

run: $(VENV)/.run fresh ## Install what is missing and start the service on its defaults
	@$(BIN)/signal-manager serve

setup: $(VENV)/.dev ## Install everything that developing needs into .venv

lint: style types ## Formatting, lint, types, import contracts, generated files and prose
style: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python -m tools.protocol --check
	$(BIN)/codespell $(PROSE)
	$(BIN)/python -m tools.prose
types: $(VENV)/.dev
	$(BIN)/mypy

# Browser tests drive Debian's Chromium, tests of several nodes its nats-server, those of TURN its coturn: installed where
# that is allowed, else those tests are skipped and say why.
tools:
	@command -v chromium >/dev/null || \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
		else echo "without Chromium the browser tests are skipped: apt-get install chromium"; fi
	@command -v turnserver >/dev/null || \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends coturn >/dev/null; \
		else echo "without coturn the tests of TURN servers are skipped: apt-get install coturn"; fi
	@command -v npm >/dev/null || \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null; fi
	@command -v nats-server >/dev/null || \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends nats-server >/dev/null; \
		else echo "without nats-server the tests of several nodes are skipped: apt-get install nats-server"; fi

# The browser SDK's own tests need Node 20 or newer: installed where that is allowed, else left out with a line.
sdk/js/node_modules: sdk/js/package.json
	cd sdk/js && npm install --no-package-lock --ignore-scripts --no-audit --no-fund --silent && touch node_modules

test-js: tools
	@if command -v npm >/dev/null && node -e 'process.exit(+(process.versions.node.split(".")[0] < 20))'; then $(MAKE) --no-print-directory sdk/js/node_modules && cd sdk/js && npm test; \
		else echo "the browser SDK was not tested: install Node 20 or newer, with npm"; fi

# Tests wait for sockets, timers and processes half of their time: three at a time keep two processors busy. What fails
# beside others runs again alone, and is named: a busy machine fails no run, and a test that fails by itself still does.
WORKERS ?= 3
define pytest
	@$(1) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=15 $(2) || { \
		echo "== what failed runs again, alone"; \
		$(1) $(BIN)/python -m pytest --last-failed --last-failed-no-failures=none -rA $(3); }
endef

# Whoever changes a module must not run what was compiled before.
fresh:
	@[ -z "$$(find src -name '*.so' -print -quit)" ] || $(BIN)/python -m tools.compiled refresh

compiled: $(VENV)/.dev ## Compile the modules that every message passes, in place (needs a C compiler)
	@$(BIN)/python -m tools.compiled build

pure: ## Remove what `make compiled` made
	@find src -name '*.so' -delete

# Style and the browser SDK each keep one processor busy, and so does mypy for a while beside the tests.
test: fresh ## What a change has to pass: lint, types, the browser SDK, all tests but the long ones
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target style test-js
	@$(MAKE) --no-print-directory --jobs=2 types measured

measured: $(VENV)/.dev tools
	$(call pytest,HYPOTHESIS_PROFILE=dev,-m "not long" --cov --cov-report=,-m "not long" --cov --cov-append --cov-report=)
	@$(BIN)/python -m tools.coverage_by_module

test-python: $(VENV)/.dev tools fresh ## All tests of Python but the long ones, of the form that is there
	$(call pytest,HYPOTHESIS_PROFILE=dev,-m "not long",-m "not long")

test-all: $(VENV)/.dev tools fresh ## The long tests: restarts, failing nodes, long browser scenes, benchmarks, properties tried often
	$(call pytest,HYPOTHESIS_PROFILE=ci,-m "long or property",-m "long or property")

protocol: $(VENV)/.dev ## Write all that follows from the protocol's catalogue: schemas, tables, TypeScript
	$(BIN)/python -m tools.protocol

# One reference relay runs on Node. Where there is no npm, or it fails, the benchmark says what it leaves out.
$(REFERENCES)/node_modules: $(REFERENCES)/package.json
	-@command -v npm >/dev/null || exit 0; cd $(REFERENCES) \
		&& npm install --no-package-lock --ignore-scripts --no-audit --no-fund --silent && touch node_modules

# Three more are compiled, each where there is its compiler.
$(REFERENCES)/build/floor_relay: $(REFERENCES)/floor_relay.c
	-@mkdir -p $(@D); command -v cc >/dev/null || exit 0; cc -O2 -o $@ $<

$(REFERENCES)/build/tungstenite_relay: $(wildcard $(REFERENCES)/tungstenite_relay/Cargo.* $(REFERENCES)/tungstenite_relay/src/*)
	-@mkdir -p $(@D); command -v cargo >/dev/null || exit 0; cd $(REFERENCES)/tungstenite_relay \
		&& cargo build --quiet --release --locked --target-dir ../build/cargo && cp ../build/cargo/release/tungstenite_relay ../build/

$(REFERENCES)/build/gorilla_relay: $(wildcard $(REFERENCES)/gorilla_relay/*)
	-@mkdir -p $(@D); command -v go >/dev/null || exit 0; cd $(REFERENCES)/gorilla_relay && go build -o ../build/gorilla_relay .

references: $(REFERENCES)/node_modules $(REFERENCES)/build/floor_relay $(REFERENCES)/build/tungstenite_relay $(REFERENCES)/build/gorilla_relay ## Build the relays that the benchmark compares with

bench: $(VENV)/.dev references ## Measure: relay cost beside reference relays, and memory for connections
	-@$(BIN)/python -m tools.compiled build
	$(BIN)/python -m benchmarks.relay
	$(BIN)/python -m benchmarks.connections
	$(BIN)/python -m benchmarks.reunion
	$(BIN)/python -m benchmarks.storage
	$(BIN)/python -m benchmarks.registrations
	$(BIN)/python -m benchmarks.request_costs
	$(BIN)/python -m benchmarks.sfu
	$(BIN)/python -m benchmarks.slow_receiver
	$(BIN)/python -m benchmarks.slow_receiver --publisher
	$(BIN)/python -m benchmarks.sfu_capacity
	$(BIN)/python -m benchmarks.slow_consumers
	$(BIN)/python -m benchmarks.hoards
	$(BIN)/python -m benchmarks.rooms
	$(BIN)/python -m benchmarks.blackhole
	$(BIN)/python -m benchmarks.network_change
	$(BIN)/python -m benchmarks.http_hosts
	$(BIN)/python -m benchmarks.decoders --check
	$(BIN)/python -m benchmarks.bus run
	$(BIN)/python -m benchmarks.curves
	$(BIN)/python -m benchmarks.pythons --gc default
	-$(BIN)/python -m benchmarks.versions run # a shallow clone lacks the revision that it compares with

soak: $(VENV)/.dev ## Ten minutes of 2,000 clients that talk, move and are dropped: memory, losses, errors, lag
	$(BIN)/python -m benchmarks.soak

# The site goes to build/site. Strictly: a broken link, or a public name of either SDK that says nothing, fails it;
# with --quiet MkDocs counts no warnings.
docs: $(VENV)/.dev sdk/js/node_modules ## Build the documentation's site into build/site
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]' $(PARTS)
	cd sdk/js && npm run --silent docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

release-check: $(VENV)/.dev ## Build wheels, sdists and the npm tarball, look through them, install and use them
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[release]' $(PARTS)
	$(BIN)/python tools/release_check.py

fuzz: $(VENV)/.dev ## Fuzz every decoder and parser for a minute
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]' $(PARTS) || true
	$(BIN)/python -m fuzz all --seconds 60

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .import_linter_cache

.PHONY: help style types measured fresh compiled pure run setup lint tools test test-python references test-all test-js protocol bench soak docs release-check fuzz clean
