#!/usr/bin/env bash
# Builds the gateway and the load test, and prints what a request costs beside bare Pingora.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

need wrk=wrk taskset=util-linux
bash scripts/build.sh
step "building the load test"
cargo build --release --locked -p loadtest
step "measuring (about two minutes)"
exec target/release/loadtest quick "$@"
