#!/usr/bin/env bash
# Builds the gateway for use. On its own, because Cargo unifies the features of packages that are built together,
# and what the other members ask for must not enter the gateway.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

need_rust
step "building tollgate (release; about 5 minutes on 2 cores from a clean checkout, seconds afterwards)"
# What `tollgate --version` says: the last commit that touched what the program is made of. Any other change
# (a new commit of the docs, an edited configuration) must not cost minutes of building.
sources=(src conf/sql Cargo.toml Cargo.lock)
TOLLGATE_REVISION=$(git log -1 --format=%h -- "${sources[@]}" 2>/dev/null || true)
git diff --quiet HEAD -- "${sources[@]}" 2>/dev/null || TOLLGATE_REVISION+=-modified
TOLLGATE_RUST=$(rustc --version | cut -d" " -f2-)
export TOLLGATE_REVISION TOLLGATE_RUST
cargo build --release --locked -p tollgate
