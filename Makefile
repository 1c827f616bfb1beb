PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PEERS  := .venv-bench
BENCH_ARGS ?= --write-docs

.DEFAULT_GOAL := help
.PHONY: help install browser demo up test check lint types imports migrate bench chaos lock clean

help:  ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(READY)  ## set up .venv from the lock file

$(READY): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "claude-jobs needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Setting up $(VENV)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)  ## run the main job end to end on embedded servers, then exit
	@$(BIN)/python -m sandbox.demo

up: $(READY)  ## run the whole stack until Ctrl-C
	@$(BIN)/python -m sandbox.up

test: $(READY)  ## run every test
	@$(BIN)/python -m pytest -n 3 --dist worksteal -q

browser:  ## install Chromium, which the tests of the review page need, where that is possible
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && grep -qs '^ID=debian' /etc/os-release; then \
		echo "Installing Chromium"; { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -qq --yes --no-install-recommends chromium fonts-dejavu-core >/dev/null; } \
			|| echo "Chromium could not be installed: the tests of the review page are skipped"; \
	else echo "install Chromium (Debian: apt install chromium); until then the tests of the review page are skipped"; fi

check: $(READY) lint types imports test  ## what CI runs

lint: $(READY)  ## ruff: format and rules
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .

types: $(READY)  ## mypy --strict
	@$(BIN)/mypy worker tasks api claude_jobs_client sandbox

imports: $(READY)  ## import-linter: imports run one way
	@$(BIN)/lint-imports

migrate: $(READY)  ## bring the database at DATABASE_URL to the newest schema
	@$(BIN)/claude-jobs migrate

chaos: $(READY)  ## attack it with kills, outages and 5,000 jobs of faults, random seed printed
	@CHAOS_LONG=1 $(BIN)/python -m pytest tests/chaos tests/acceptance/test_ledger.py \
		tests/integration/api/test_document.py -q -x

bench: $(READY) $(PEERS)/.ready  ## measure against plain Celery and other queues (BENCH_ARGS=--quick)
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

# The peers of the benchmarks, away from our own packages. --no-deps: two of them disagree about
# redis-py (benchmarks/peers/overrides.txt), and the lock names everything.
$(PEERS)/.ready: benchmarks/peers/requirements.lock
	@echo "Setting up $(PEERS)"
	@test -x $(PEERS)/bin/pip || $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/pip install -qq --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@

LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-header --no-emit-index-url --no-emit-find-links

lock: $(READY)  ## resolve the dependencies anew (LOCK_ARGS=--upgrade for newer ones)
	$(LOCK) $(LOCK_ARGS) pyproject.toml --extra api -o requirements.lock
	$(LOCK) $(LOCK_ARGS) pyproject.toml --extra api --extra sandbox --extra prompts --extra report --group dev -c requirements.lock -o requirements-dev.lock
	$(LOCK) $(LOCK_ARGS) benchmarks/peers/requirements.in -c requirements.lock \
		--override benchmarks/peers/overrides.txt -o benchmarks/peers/requirements.lock

clean:  ## remove the environment and the sandbox's data
	rm -rf $(VENV) $(PEERS) .sandbox .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
