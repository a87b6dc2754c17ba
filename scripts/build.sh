#!/usr/bin/env bash
# Builds the gateway for use. On its own, because Cargo unifies the features of packages that are built together,
# and what the other members ask for must not enter the gateway.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

need_rust
step "building tollgate (release; about 5 minutes on 2 cores from a clean checkout, seconds afterwards)"
name_the_build
cargo build --release --locked -p tollgate
