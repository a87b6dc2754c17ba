# Everything a newcomer needs is `make run` and `make test`; both install what is missing.

.DEFAULT_GOAL := help
.PHONY: help run test conformance build release-pgo check fmt bench-quick bench bench-record bench-check bench-micro bench-peers dist

help: ## Lists these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# On a terminal the script gets a process group of its own (bash -m), so that Ctrl-C reaches it alone:
# it stops what it started, ends with 0, and make has nothing to complain about.
run: ## Builds the gateway, starts it with the demo services, says what to try; Ctrl-C stops it
	@if [ -t 0 ]; then bash -mc 'bash scripts/run.sh; exit $$?'; else exec bash scripts/run.sh; fi

test: ## Installs what the tests need, then runs format check, clippy and all tests
	@bash scripts/test.sh

conformance: ## Runs http-tests/cache-tests against the gateway; SUITE=/path runs a checkout of it instead of the edition on npm
	@bash scripts/conformance.sh $(SUITE)

build: ## Builds the release binary target/release/tollgate
	@bash scripts/build.sh

release-pgo: ## Builds target/release-pgo/tollgate, optimised for what a load executes; 15 minutes
	@bash scripts/release_pgo.sh

dist: ## Packs the optimised build with configuration and unit as target/dist/tollgate-*.tar.gz
	@bash scripts/dist.sh

check: ## Format check and clippy only
	@bash scripts/check.sh

fmt: ## Formats the sources
	cargo fmt --all

bench-quick: ## Measures this build against bare Pingora, about two minutes after the build
	@bash scripts/bench_quick.sh

bench: ## Measures tollgate, bare Pingora, nginx, HAProxy, Varnish and Envoy in all jobs, about an hour
	@bash scripts/bench.sh

bench-record: ## The same, and makes docs/performance.md and the baseline of it
	@bash scripts/bench.sh --record

bench-check: ## Fails when a request costs over 5% more beside bare Pingora than the baseline says
	@bash scripts/bench_check.sh

bench-peers: ## Installs the proxies and load generators of the comparison, and prints their versions
	@bash scripts/bench_peers.sh

bench-micro: ## Time and instructions of single functions: routes, keys, limits, records, configuration
	@bash scripts/bench_micro.sh
