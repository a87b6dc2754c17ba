#!/usr/bin/env bash
# Builds the gateway and the load test, and measures everybody in every job: about an hour.
# Arguments go to `loadtest compare`, e.g. `bash scripts/bench.sh --job J2 --only tollgate,nginx`.
# With --record first: a whole run, whose tables become docs/performance.md and whose ratios become the baseline.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

record=no
if [ "${1:-}" = --record ]; then
    record=yes
    shift
    [ $# -eq 0 ] || fail "--record is a whole run and takes no further arguments"
fi

need wrk=wrk taskset=util-linux
bash scripts/build.sh
step "building the load test"
cargo build --release --locked -p loadtest
step "measuring"
mkdir -p target/bench
target/release/loadtest compare --format json --out target/bench/result.json "$@"
target/release/loadtest show target/bench/result.json
if [ "$record" = yes ]; then
    target/release/loadtest balance --json >target/bench/balance.json
    target/release/loadtest show target/bench/result.json --format markdown --out docs/performance.md \
        --balance target/bench/balance.json --baseline-out loadtest/baseline.json
    step "recorded in docs/performance.md and loadtest/baseline.json"
fi
step "everything, every round: target/bench/result.json"
