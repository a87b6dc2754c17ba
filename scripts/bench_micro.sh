#!/usr/bin/env bash
# Micro benchmarks of the gateway's own functions: their time by divan, then instructions per call by callgrind, which a busy
# machine does not change. With arguments only the cases whose name contains the first, e.g. `bash scripts/bench_micro.sh limit/`.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

need_rust
need valgrind=valgrind
only=${1:-}

step "building the micro benchmarks (several minutes the first time, about one afterwards)"
# One package alone: Cargo would give it the features that other members ask for.
program=$(cargo bench --locked -p tollgate --bench micro --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*\/micro-[^"]*\)".*/\1/p' | tail -n 1)
[ -x "$program" ] || fail "cargo did not say where it put the benchmarks"

step "time per call"
# A filter that fits no name leaves all of them out.
"$program" --bench ${only:+"$only"}

step "instructions per call"
found=no
while read -r times name; do
    [[ "$name" == *"$only"* ]] || continue
    found=yes
    # Only what happens within this function of benches/micro/case.rs is counted.
    said=$(valgrind --tool=callgrind --callgrind-out-file=/dev/null --collect-atstart=no \
        --toggle-collect='micro::case::counted*' "$program" count "$name" "$times" 2>&1) || fail "$name: $said"
    collected=$(sed -n 's/.*Collected : \([0-9]*\).*/\1/p' <<<"$said")
    [ "${collected:-0}" -gt 0 ] || fail "$name: callgrind counted nothing; has the function got another name? $said"
    awk -v name="$name" -v all="$collected" -v times="$times" 'BEGIN { printf "%-45s %15.1f\n", name, all / times }'
done < <("$program" cases)
[ "$found" = yes ] || fail "no case is called anything like $only; these are all: $("$program" cases | cut -d' ' -f2-)"
