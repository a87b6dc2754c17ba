#!/usr/bin/env bash
# Packs what others get: the build optimised with a profile, its configuration, its unit for systemd, and the licence,
# as target/dist/tollgate-VERSION-MACHINE.tar.gz with its SHA-256. Fails where the profile can't be made, because an
# artefact must not be slower than its documentation says.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

need strip=binutils
# What is packed has to be what its commit says.
if git rev-parse --git-dir >/dev/null 2>&1 && [ -n "$(git status --porcelain)" ]; then
    fail "the working tree is modified: commit or stash first, so that the artefact is what its commit says"
fi
bash scripts/release_pgo.sh --strict
version=$(target/release-pgo/tollgate --version | sed -nE '1s/^tollgate ([0-9][^ ]*).*/\1/p')
[ -n "$version" ] || fail "tollgate --version does not begin with its version"
name=tollgate-$version-$(rustc -vV | sed -n 's/^host: //p')
place=target/dist/$name
rm -rf "$place"
mkdir -p "$place"
cp target/release-pgo/tollgate README.md LICENSE conf/tollgate.yaml conf/tollgate.schema.json deploy/tollgate.service "$place/"
cp -r conf/sql "$place/sql"
strip "$place/tollgate"
"$place/tollgate" check -c "$place/tollgate.yaml" >/dev/null || fail "the packed tollgate does not take the packed configuration"
tar -czf "$place.tar.gz" --owner=0 --group=0 -C target/dist "$name"
(cd target/dist && sha256sum "$name.tar.gz" | tee "$name.tar.gz.sha256")
