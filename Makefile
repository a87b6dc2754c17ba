# Everything a newcomer needs is `make run` and `make test`; both install what is missing.

.DEFAULT_GOAL := help
.PHONY: help run test build check fmt bench-quick bench-micro

help: ## Lists these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# On a terminal the script gets a process group of its own (bash -m), so that Ctrl-C reaches it alone:
# it stops what it started, ends with 0, and make has nothing to complain about.
run: ## Builds the gateway, starts it with the demo services, says what to try; Ctrl-C stops it
	@if [ -t 0 ]; then bash -mc 'bash scripts/run.sh; exit $$?'; else exec bash scripts/run.sh; fi

test: ## Installs what the tests need, then runs format check, clippy and all tests
	@bash scripts/test.sh

build: ## Builds the release binary target/release/tollgate
	@bash scripts/build.sh

check: ## Format check and clippy only
	@bash scripts/check.sh

fmt: ## Formats the sources
	cargo fmt --all

bench-quick: ## Measures this build against bare Pingora, about 90 seconds after the build
	@bash scripts/bench_quick.sh

bench-micro: ## Time and instructions of single functions: routes, keys, limits, records, configuration
	@bash scripts/bench_micro.sh
