# Read by the other scripts, not run: finds cargo, and installs packages of the distribution that are missing.
# Nothing is installed that is there already, and no system service is started by it.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Servers and cargo are often outside a user's PATH.
export PATH="$PATH:$HOME/.cargo/bin:/usr/local/sbin:/usr/sbin:/sbin"

step() { printf '\n==> %s\n' "$*"; }
fail() { printf '\nerror: %s\n' "$*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# can_install: whether packages can be installed here at all; asks for a password only on a terminal.
can_install() {
    has apt-get || return 1
    [ "$(id -u)" -eq 0 ] && return 0
    has sudo || return 1
    [ -t 0 ] || sudo -n true 2>/dev/null
}

# policy-rc.d is how Debian is told not to start a service when its package is installed.
POLICY=/usr/sbin/policy-rc.d

# install_packages PACKAGE...: installs them without starting services. In a subshell, so that the trap is its own.
install_packages() (
    step "installing $* (packages of this distribution)"
    if [ ! -e "$POLICY" ]; then
        trap 'as_root rm -f "$POLICY"' EXIT
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$POLICY" >/dev/null
        as_root chmod 755 "$POLICY"
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update || echo "apt-get update failed, trying with the lists at hand"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@" </dev/null ||
        fail "apt-get could not install: $*"
)

# need COMMAND=PACKAGE...: makes sure that every command exists; the packages of missing ones are installed together.
need() {
    local pair packages=() commands=()
    for pair in "$@"; do
        has "${pair%%=*}" && continue
        commands+=("${pair%%=*}")
        packages+=("${pair#*=}")
    done
    [ "${#packages[@]}" -gt 0 ] || return 0
    can_install || fail "missing: ${commands[*]}. They cannot be installed from here (needs apt-get, and root or sudo).
       Install them yourself, then run this again. On Debian and Ubuntu: apt-get install ${packages[*]}"
    install_packages "${packages[@]}"
    for pair in "$@"; do
        has "${pair%%=*}" || fail "the package ${pair#*=} is installed, but the command ${pair%%=*} is not to be found"
    done
}

# need_rust: cargo, a C compiler, and cmake, which Pingora's zlib-ng is built with.
need_rust() {
    has cargo || fail "cargo is missing: install Rust from https://rustup.rs, then run this again"
    has cc || has gcc || has clang || need cc=gcc
    need cmake=cmake
}

# name_the_build: exports what `tollgate --version` says. The revision is the last commit that touched what the program is
# made of: any other change (a new commit of the docs, an edited configuration) must not cost minutes of building.
name_the_build() {
    local sources=(src conf/sql conf/redis Cargo.toml Cargo.lock)
    TOLLGATE_REVISION=$(git log -1 --format=%h -- "${sources[@]}" 2>/dev/null || true)
    git diff --quiet HEAD -- "${sources[@]}" 2>/dev/null || TOLLGATE_REVISION+=-modified
    TOLLGATE_RUST=$(rustc --version | cut -d" " -f2-)
    export TOLLGATE_REVISION TOLLGATE_RUST
}
