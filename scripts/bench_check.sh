#!/usr/bin/env bash
# Builds the gateway and the load test, and fails when a request costs more beside bare Pingora than the baseline says.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

need wrk=wrk taskset=util-linux
bash scripts/build.sh
step "building the load test"
cargo build --release --locked -p loadtest
step "measuring (about five minutes; twice that and more when something looks worse)"
exec target/release/loadtest check "$@"
