#!/usr/bin/env bash
# The demo: builds what is missing, starts the demo services and the gateway with conf/tollgate.yaml, and says what to try.
# Ends when Ctrl-C is pressed, or with 1 when one of the two programs ends by itself. Stops only what it started.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

CONF=conf/tollgate.yaml
OUT=target/run
READY_SECONDS_MAX=30
gateway='' backends=''

# without_comments: the configuration as the gateway sees it, near enough to find addresses.
without_comments() { sed 's/[[:space:]]#.*$//; s/^#.*$//' "$CONF"; }

# is_open HOST:PORT: whether something listens there.
is_open() { (exec 3<>"/dev/tcp/${1%:*}/${1##*:}") 2>/dev/null; }

# ask HOST:PORT PATH: the status of a GET, without needing curl.
ask() {
    (
        exec 3<>"/dev/tcp/${1%:*}/${1##*:}"
        printf 'GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$2" "$1" >&3
        read -r -t 2 _ status _ <&3
        printf '%s' "$status"
    ) 2>/dev/null || true
}

check_ports() {
    local address
    for address in $(without_comments | grep -oE '127\.0\.0\.1:[0-9]+' | sort -u); do
        ! is_open "$address" || fail "port ${address##*:} is taken: something already listens on $address, which $CONF uses.
       Stop it (ss -ltnp 'sport = :${address##*:}' says what it is), or change the port in $CONF."
    done
}

is_alive() { [ -n "$1" ] && kill -0 "$1" 2>/dev/null; }

# end PID: asks a program to stop and waits for it; its exit code is in `ended`.
end() {
    ended=0
    [ -n "$1" ] || return 0
    kill -TERM "$1" 2>/dev/null || true
    while true; do
        wait "$1" 2>/dev/null && ended=0 || ended=$?
        # A second Ctrl-C interrupts the wait.
        is_alive "$1" || return 0
    done
}

stop() {
    local gateway_ended
    # Asked a second time, the gateway ends at once.
    trap 'is_alive "$gateway" && kill -TERM "$gateway"' INT TERM HUP
    printf '\nstopping: the gateway finishes what is in flight and writes its log\n'
    # Instances last: requests in flight still need them.
    end "$gateway"
    gateway_ended=$ended
    end "$backends"
    if [ "$gateway_ended" -ne 0 ]; then
        tail -n 20 "$OUT/tollgate.log" >&2
        fail "tollgate ended with exit code $gateway_ended instead of 0 (all of its messages: $OUT/tollgate.log)"
    fi
    [ ! -f "$OUT/tollgate.log" ] || tail -n 3 "$OUT/tollgate.log"
    echo "stopped"
    exit 0
}

# died NAME: one of the programs ended by itself; shows why.
died() {
    trap '' INT TERM HUP
    printf '\n%s ended. Its last messages (all of them: %s):\n\n' "$1" "$OUT/$1.log" >&2
    tail -n 40 "$OUT/$1.log" >&2
    end "$gateway"
    end "$backends"
    exit 1
}

# start PROGRAM ARGUMENT...: in the background, in a process group of its own: Ctrl-C must not reach it past this script.
start() {
    local name
    name=$(basename "$1")
    set -m
    "$@" </dev/null >"$OUT/$name.log" 2>&1 &
    set +m
}

# wait_until SECONDS NAME PID COMMAND...: until the command succeeds; shows the program's messages if it ends before.
wait_until() {
    local deadline=$((SECONDS + $1)) name=$2 pid=$3
    shift 3
    until "$@"; do
        is_alive "$pid" || died "$name"
        if [ "$SECONDS" -ge "$deadline" ]; then
            echo "$name is not ready after ${READY_SECONDS_MAX} seconds" >&2
            died "$name"
        fi
        sleep 0.1
    done
}

is_ready() { [ "$(ask "$admin" /ready)" = 200 ]; }
has_said_ready() { grep -q '^mock_backends ready' "$OUT/mock_backends.log"; }

[ -f "$CONF" ] || fail "$CONF is missing"
# Before the build, because nobody wants to hear of it five minutes later.
check_ports
key=$(grep -oE 'tg_[0-9A-Za-z]{49}' "$CONF" | head -n 1 || true)
[ -n "$key" ] || fail "$CONF has no demo key in a comment (tg_ and 49 letters and digits)"
listen=$(without_comments | sed -nE 's/^listen:.*(127\.0\.0\.1:[0-9]+).*/\1/p' | head -n 1)
admin=$(without_comments | sed -nE 's/^admin:.*(127\.0\.0\.1:[0-9]+).*/\1/p' | head -n 1)
: "${listen:=127.0.0.1:8080}" "${admin:=127.0.0.1:8081}"

has curl || ! can_install || need curl=curl
bash scripts/build.sh
step "building mock_backends, the demo services"
cargo build --release --locked -p mock_backends

check_ports
mkdir -p "$OUT"
trap stop INT TERM HUP
step "starting the demo services"
start target/release/mock_backends
backends=$!
wait_until "$READY_SECONDS_MAX" mock_backends "$backends" has_said_ready
step "starting tollgate with $CONF"
start target/release/tollgate run -c "$CONF"
gateway=$!
wait_until "$READY_SECONDS_MAX" tollgate "$gateway" is_ready

has curl || printf '\ncurl is not installed; any HTTP client will do for what follows\n'
cat <<TEXT

tollgate is ready. With the demo key (200), and without a key (401):

curl -i -H 'X-API-Key: $key' http://$listen/api/user_service/users
curl -i http://$listen/api/user_service/users

metrics        http://$admin/metrics
admin          http://$admin/admin/summary
health         http://$admin/health
usage report   target/release/tollgate usage -c $CONF
messages       $OUT/tollgate.log
configuration  $CONF (after a change: target/release/tollgate reload -c $CONF)

Ctrl-C stops everything.
TEXT

# Signals end the wait, and then their trap runs.
wait -n "$gateway" "$backends" || true
is_alive "$gateway" || died tollgate
died mock_backends
