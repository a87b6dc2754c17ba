#!/usr/bin/env bash
# How many requests a second a deployment of yours answers: each connection asks again as soon as it has its answer.
# Needs wrk (Debian and Ubuntu: apt-get install wrk). It loads whatever it is pointed at: point it at what is yours.
set -euo pipefail

usage="usage: wrk.sh URL [KEY [SECONDS [CONNECTIONS]]]
  URL          e.g. https://api.example.com/items
  KEY          sent as X-API-Key; '' for none
  SECONDS      1 to 300, default 10
  CONNECTIONS  1 to 1000, default 32"
url=${1:-} key=${2:-} seconds=${3:-10} connections=${4:-32}

between() { [[ $1 =~ ^[0-9]{1,6}$ ]] && [ "$((10#$1))" -ge "$2" ] && [ "$((10#$1))" -le "$3" ]; }
if [ $# -gt 4 ] || [[ ! $url =~ ^https?://. ]] || ! between "$seconds" 1 300 || ! between "$connections" 1 1000; then
    echo "$usage" >&2
    exit 2
fi
command -v wrk >/dev/null || { echo "wrk is missing. Debian and Ubuntu: apt-get install wrk" >&2; exit 1; }

exec wrk -t1 -c"$connections" -d"${seconds}s" --timeout 10s --latency ${key:+-H "X-API-Key: $key"} "$url"
