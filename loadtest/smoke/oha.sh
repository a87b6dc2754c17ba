#!/usr/bin/env bash
# How long callers of a deployment of yours wait at a rate that you choose. Requests start when they are due, whatever comes
# back, and the time that one waits for a free connection counts, which is what wrk cannot say.
# Needs oha (`make bench-peers`, or cargo install oha --locked). It loads whatever it is pointed at: point it at what is yours.
set -euo pipefail

usage="usage: oha.sh URL [KEY [SECONDS [RATE [CONNECTIONS]]]]
  URL          e.g. https://api.example.com/items
  KEY          sent as X-API-Key; '' for none
  SECONDS      1 to 300, default 10
  RATE         requests a second, 1 to 100000, default 100
  CONNECTIONS  1 to 1000, default 32"
url=${1:-} key=${2:-} seconds=${3:-10} rate=${4:-100} connections=${5:-32}

between() { [[ $1 =~ ^[0-9]{1,6}$ ]] && [ "$((10#$1))" -ge "$2" ] && [ "$((10#$1))" -le "$3" ]; }
if [ $# -gt 5 ] || [[ ! $url =~ ^https?://. ]] || ! between "$seconds" 1 300 || ! between "$rate" 1 100000 ||
    ! between "$connections" 1 1000; then
    echo "$usage" >&2
    exit 2
fi
# Where `make bench-peers` puts it.
PATH=$PATH:$(cd "$(dirname "$0")/../.." && pwd)/target/bench-tools/bin
command -v oha >/dev/null || { echo "oha is missing: make bench-peers, or cargo install oha --locked" >&2; exit 1; }

exec oha -z "${seconds}s" -q "$rate" -c "$connections" --latency-correction -t 10s --no-tui \
    ${key:+-H "X-API-Key: $key"} "$url"
