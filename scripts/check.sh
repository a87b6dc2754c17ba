#!/usr/bin/env bash
# What can be said about the sources without running them: format, and clippy with warnings as errors.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

need_rust
for part in rustfmt:fmt clippy:clippy; do
    cargo "${part#*:}" --version >/dev/null 2>&1 && continue
    has rustup || fail "cargo ${part#*:} is missing: install the component ${part%:*} of your Rust"
    step "installing ${part%:*} (rustup component)"
    rustup component add "${part%:*}"
done

step "cargo fmt --check"
cargo fmt --all --check

step "cargo clippy, warnings are errors"
cargo clippy --workspace --all-targets --locked -- -D warnings
