#!/usr/bin/env bash
# Install podman on Debian and its kin, if nothing is there that runs it and the caller may. Idempotent.
#
# Without the packages that are only recommended: of those, crun refuses a machine that has cgroups of both versions, where
# runc does not. catatonit is the init of containers.
set -euo pipefail

command -v podman >/dev/null && exit
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || {
    echo "podman is not installed, and only root can: apt-get install podman runc catatonit" >&2
    exit 1
}
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends podman runc catatonit >/dev/null
