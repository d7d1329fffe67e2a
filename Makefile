# Each target says in a line what it does; `make` lists them. Needs git, make and python3 (3.11 or newer).
PYTHON ?= python3
MACHINE := @$(PYTHON) scripts/machine
REGISTRY := $(if $(FLAGRELEASE_REGISTRY_PORT),--registry localhost:$(FLAGRELEASE_REGISTRY_PORT)/flagrelease)
# More arguments for flagrelease or pytest: make release ARGS="--engine inline", make test ARGS="-k gates"
ARGS ?=

.PHONY: help release example test test-slow mutants check setup base down lock-deps newcomer clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

release: ## release a real model for the chip cpu; sets up what is missing first
	$(MACHINE) up
	@.venv/bin/flagrelease run --chip cpu --model smollm2-135m $(REGISTRY) $(ARGS)

example: ## write docs/example/ and the README's tables from the newest release
	@.venv/bin/python scripts/example.py

test: ## run ruff, mypy and the tests with line coverage; sets up what is missing first
	$(MACHINE) test
	@$(MAKE) --no-print-directory check
	@PYTHONDONTWRITEBYTECODE= .venv/bin/python -m slipcover --json --out .cache/coverage.json -m pytest $(ARGS)

test-slow: ## run the proofs that take too long for `make test`
	$(MACHINE) test
	@.venv/bin/pytest -m slow $(ARGS)

mutants: ## change the code in small ways and count the changes that no test notices (docs/mutants.md)
	$(MACHINE) venv
	@.venv/bin/python scripts/mutants $(ARGS)

check: ## run ruff, mypy --strict, and the linters of the workflows
	$(MACHINE) venv kernels
	@found=$$(.venv/bin/zizmor --offline --quiet --no-progress .github/workflows) || { echo "$$found"; exit 1; }
	@.venv/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@.venv/bin/ruff check --quiet --output-format concise .
	@.venv/bin/mypy --no-error-summary scripts/machine scripts/newcomer.py scripts/example.py scripts/seed_card.py
	@if .venv/bin/python -c "import importlib.util as i; exit(not i.find_spec('torch'))"; then \
		.venv/bin/mypy --no-error-summary && echo "ruff and mypy        passed"; \
	else \
		.venv/bin/mypy --no-error-summary -p flagrelease && \
		echo "ruff and mypy        passed     without flagkernels, whose types need torch"; \
	fi

setup: ## make the virtual environment, Docker Engine, registry and base image ready
	$(MACHINE) up

base: ## make the base image of the chip cpu
	$(MACHINE) engine base

down: ## stop the daemons that this checkout started, and nothing else
	$(MACHINE) down

lock-deps: ## resolve the dependencies anew and write the hash-locked lists
	$(MACHINE) venv
	@scripts/lock-deps

newcomer: ## prove `make release` and `make test` in a bare Debian 12 with git, make and python3 only
	@$(PYTHON) scripts/newcomer.py

clean: down ## remove the virtual environment, caches and logs; releases in .flagrelease stay
	@rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
