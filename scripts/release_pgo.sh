#!/usr/bin/env bash
# Builds target/release-pgo/tollgate: the release build, optimised for what a run of the load test executed
# (profile-guided optimisation). Two release builds and about a minute of load: 15 minutes on 2 cores.
# Without an llvm-profdata that reads this Rust's profiles it makes a plain release build in the same place and says so;
# with --strict it fails instead, which is for artefacts that other people get.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

strict=no
case "${1:-}" in
    '') ;;
    --strict) strict=yes ;;
    *) fail "usage: release_pgo.sh [--strict]" ;;
esac

place=$PWD/target/release-pgo
work=$PWD/target/pgo

# put PROGRAM WHAT: hands the result over in one step, so that nobody runs half a program.
put() {
    mkdir -p "$place"
    cp "$1" "$place/tollgate.new"
    mv "$place/tollgate.new" "$place/tollgate"
    step "target/release-pgo/tollgate: $2"
    "$place/tollgate" --version
}

# try_profile: makes a profile with this Rust, for candidates to read.
try_profile() {
    rm -rf "$work/try"
    mkdir -p "$work/try"
    echo 'fn main() { println!("{}", std::env::args().count()); }' >"$work/try/main.rs"
    rustc -Cprofile-generate="$work/try" -o "$work/try/main" "$work/try/main.rs"
    LLVM_PROFILE_FILE="$work/try/main.profraw" "$work/try/main" >/dev/null
}

# find_profdata: the first llvm-profdata that reads such a profile. Rust's own comes with its component llvm-tools; the
# distributions' have a version in their names. The version says too little: what counts is that it reads the format.
find_profdata() {
    local candidate candidates
    mapfile -t candidates < <(
        echo "$(rustc --print sysroot)/lib/rustlib/$target/bin/llvm-profdata"
        compgen -c llvm-profdata- | grep -E '^llvm-profdata-[0-9]+$' | sort -u -t- -k3,3nr
        echo llvm-profdata
    )
    for candidate in "${candidates[@]}"; do
        has "$candidate" || continue
        if "$candidate" merge -o "$work/try/main.profdata" "$work/try/main.profraw" >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
        echo "$(command -v "$candidate") does not read the profiles of $(rustc --version)" >&2
    done
}

# build_with FLAGS FOLDER: a release build of its own. --target, although it is this machine's, keeps the flags away from
# build scripts and macros.
# The flags travel in the form that is separated by 0x1f, because a path may have blanks.
build_with() {
    local flags=$1
    [ -z "${RUSTFLAGS:-}" ] || flags=${RUSTFLAGS// /$'\x1f'}$'\x1f'$flags
    [ -z "${CARGO_ENCODED_RUSTFLAGS:-}" ] || flags=$CARGO_ENCODED_RUSTFLAGS$'\x1f'$1
    CARGO_ENCODED_RUSTFLAGS=$flags cargo build --release --locked -p tollgate --target "$target" --target-dir "$2"
}

need_rust
target=$(rustc -vV | sed -n 's/^host: //p')
try_profile
profdata=$(find_profdata)
if [ -z "$profdata" ]; then
    missing="no llvm-profdata that reads the profiles of $(rustc --version). Any of these brings one:
       rustup component add llvm-tools
       apt-get install llvm-19    (or a newer one; Debian and Ubuntu)"
    [ "$strict" = no ] || fail "$missing"
    printf '\nwarning: %s\n\nGoing on WITHOUT profile-guided optimisation.\n' "$missing" >&2
    bash scripts/build.sh
    put target/release/tollgate "a plain release build, NOT optimised with a profile (see the warning above)"
    exit 0
fi
step "profiles are read by $profdata"

need wrk=wrk taskset=util-linux
name_the_build

step "1 of 4: building tollgate with counters (release)"
build_with "-Cprofile-generate=$work/raw" "$work/counting"

step "2 of 4: building the load test"
cargo build --release --locked -p loadtest

step "3 of 4: training on plain proxying, gateway, cache hits and refusals (about a minute)"
rm -rf "$work/raw" "$work/tollgate.profdata"
mkdir -p "$work/raw"
# Each process leaves a file when it ends. What it costs with counters in it says nothing, so the figures are not shown.
LLVM_PROFILE_FILE="$work/raw/%p.profraw" timeout 300 target/release/loadtest compare \
    --tollgate "$work/counting/$target/release/tollgate" --only tollgate --job J1,J2,J3,J4 --rounds 3 --seconds 2 \
    --format json --out "$work/training.json" || fail "the training run failed, see above"
profiles=("$work"/raw/*.profraw)
[ -s "${profiles[0]}" ] || fail "the training run left no profile in $work/raw"
"$profdata" merge -o "$work/tollgate.profdata" "${profiles[@]}"

step "4 of 4: building tollgate with the profile (release)"
# Cargo does not look into the profile, and would keep what it built with the last one.
rm -rf "$work/optimised"
TOLLGATE_RUST+=", profile-guided"
build_with "-Cprofile-use=$work/tollgate.profdata" "$work/optimised"
put "$work/optimised/$target/release/tollgate" "optimised with a profile of ${#profiles[@]} processes"
