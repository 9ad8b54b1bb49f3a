#!/usr/bin/env bash
# Install podman on Debian and its derivatives, if it is missing and the caller is root. Idempotent.
#
# Without recommended packages: one of them, crun, rejects a machine that has cgroups of both versions, which runc accepts.
# catatonit is the init of containers.
set -euo pipefail

command -v podman >/dev/null && exit
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || {
    echo "podman is not installed, and only root can: apt-get install podman runc catatonit" >&2
    exit 1
}
# Under a lock, since an apt does not wait for another one, and several processes of tests come here at once.
flock /var/lib/apt apt-get -qq update
DEBIAN_FRONTEND=noninteractive flock /var/lib/apt apt-get -qq install -y --no-install-recommends podman runc catatonit >/dev/null
