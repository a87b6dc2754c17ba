#!/usr/bin/env bash
# Runs http-tests/cache-tests (the suite behind cache-tests.fyi) against tollgate as the proxy in front of the suite's own origin.
# usage: scripts/conformance.sh [SUITE]: a checkout of the suite; without one, the edition on npm that tests/conformance pins,
# whose failing tests have to be exactly those in tests/conformance/failing.txt. TOLLGATE=PROGRAM asks that one instead of building one.
set -euo pipefail
suite=${1:+$(realpath "$1")}
source "$(dirname "$0")/setup.sh"

need_rust
need node=nodejs curl=curl
known=()
if [ -z "$suite" ]; then
    need npm=npm
    step "fetching the suite from npm"
    mkdir -p target/conformance
    cp tests/conformance/package.json tests/conformance/package-lock.json target/conformance/
    (cd target/conformance && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
    suite=$PWD/target/conformance/node_modules/http-cache-tests
    known=(tests/conformance/failing.txt)
elif [ -d "$suite/test-engine" ] && ! [ -d "$suite/node_modules" ]; then
    fail "$suite has no node_modules: run npm install there first"
fi
# Newer editions have a folder more.
engine=$suite
if [ -d "$suite/test-engine" ]; then engine=$suite/test-engine; fi
[ -f "$engine/cli.mjs" ] || fail "$suite is no checkout of http-tests/cache-tests"

# The program that is asked; it is built where nothing is said.
program=${TOLLGATE:-}
if [ -z "$program" ]; then
    step "building the gateway"
    name_the_build
    cargo build --package tollgate --locked
    program=target/debug/tollgate
fi
[ -x "$program" ] || fail "$program is no program"

out=$(mktemp -d)
pids=()
stop() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$out"
}
trap stop EXIT

free_port() { node -e 'const s = require("net").createServer().listen(0, "127.0.0.1", () => { console.log(s.address().port); s.close() })'; }
answers() {
    for _ in $(seq 100); do
        curl --silent --output /dev/null "http://127.0.0.1:$1/" && return
        sleep 0.1
    done
    cat "$2" >&2
    fail "nothing answers on port $1"
}

# The suite reads what npm would tell it.
export npm_config_protocol=http npm_package_config_id=""
ORIGIN_PORT=$(free_port) PORT=$(free_port)
export ORIGIN_PORT PORT
(cd "$suite" && exec env npm_config_port="$ORIGIN_PORT" npm_config_pidfile="$out/origin.pid" node "$engine/server/server.mjs") >"$out/origin.log" 2>&1 &
pids+=($!)
answers "$ORIGIN_PORT" "$out/origin.log"
cp tests/conformance/gateway.yaml "$out/"
"$program" run -c "$out/gateway.yaml" >"$out/gateway.log" 2>&1 &
pids+=($!)
answers "$PORT" "$out/gateway.log"

step "running the suite ($suite), about two minutes"
ask() {
    (cd "$suite" && npm_config_base="http://127.0.0.1:$PORT" node --no-warnings "$engine/cli.mjs") >"$out/results.json" 2>"$out/cli.log" || {
        cat "$out/cli.log" >&2
        fail "the suite did not end"
    }
    node tests/conformance/report.mjs "$suite" "$out/results.json" "${known[@]}"
}
# Many of its tests wait for answers to become stale, and a machine that stands still for a second makes one fail or pass: what is not as it should
# be is asked again, and only counts the second time.
if ! ask; then
    step "not as expected: running the suite once more"
    ask
fi
