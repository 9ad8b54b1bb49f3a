#!/usr/bin/env bash
# Take down the cluster that up.sh has brought up, and remove its directory: down.sh ROOT
set -uo pipefail

root=$(cd "$1" && pwd) || exit

# Kill it, which ends all in its namespaces, and wait: the kernel lets go of a first process after all others.
stop() {
    local pid
    [ -s "$1" ] && pid=$(cat "$1") || return
    kill -KILL "$pid" 2>/dev/null
    for _ in $(seq 300); do
        [ -e "/proc/$pid" ] || return
        sleep 0.1
    done
    echo "process $pid of $1 does not end" >&2
}

# Those of containers outlive them. In each hierarchy, containerd has all in one of its own, by their ids.
remove_cgroups() {
    local container cgroup
    for container in "$root"/var/lib/containerd/io.containerd.grpc.v1.cri/{containers,sandboxes}/*; do
        for cgroup in /sys/fs/cgroup/{,*/}"k8s.io/${container##*/}"; do
            [ -d "$cgroup" ] && find "$cgroup" -depth -type d -exec rmdir {} +
        done
    done
    rmdir /sys/fs/cgroup/{,*/}k8s.io 2>/dev/null # unless another node has containers
}

stop "$root/client.pid"
stop "$root/parent.pid"
stop "$root/node.pid"
remove_cgroups
rm -rf "$root"
