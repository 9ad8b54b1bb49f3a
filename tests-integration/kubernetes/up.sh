#!/usr/bin/env bash
# Bring up a Kubernetes of one node, in namespaces of its own: processes, mounts, network. Any number run beside each
# other, and down.sh leaves nothing of them. Needs root.
#
#   up.sh ROOT [KOPF]
#
#   ROOT  a new directory, not below /var or /run: for all its files, the log of each of its programs, and kubeconfig
#   KOPF  that program, from an environment that has dask-kubernetes: the Dask operator is brought up, too
#
# Two processes stand for its two networks, each to be entered by `nsenter --target $(cat ROOT/node.pid)`: that of the node
# (with --mount, it has the DNS of the cluster as well), and in client.pid that of a client outside of the cluster, from
# which only the API server is reached.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
programs=$("$here/build.sh")
mkdir -p "$1/log"
root=$(cd "$1" && pwd)
chmod 700 "$root"

start_node() {
    # What it mounts, runs and configures is gone with its first process, which is killed with the one that forks it.
    setsid unshare --fork --kill-child --pid --mount-proc --mount --net \
        "$here/node.sh" "$root" "$programs" "${1:-}" <"/dev/null" >"$root/log/node" 2>&1 &
    parent=$!
    echo "$parent" >"$root/parent.pid"
    until [ -e "$root/ready" ]; do
        kill -0 "$parent" 2>/dev/null || {
            tail -n 20 "$root/log/node" >&2
            exit 1
        }
        sleep 0.1
    done
    node=$(pgrep --parent "$parent")
    echo "$node" >"$root/node.pid"
}

start_client() {
    setsid unshare --net sleep infinity </dev/null >/dev/null 2>&1 &
    client=$!
    echo "$client" >"$root/client.pid"
    until [ "$(readlink "/proc/$client/ns/net")" != "$(readlink /proc/self/ns/net)" ]; do
        sleep 0.01
    done
    nsenter --target "$node" --net ip link set client netns "$client"
    nsenter --target "$client" --net bash -euc '
        ip link set lo up
        ip address add 10.90.0.2/24 dev client
        ip link set client up
        iptables -P OUTPUT DROP
        iptables -A OUTPUT -o lo -j ACCEPT
        iptables -A OUTPUT -d 10.90.0.1 -p tcp --dport 6443 -j ACCEPT'
}

start_node "${2:-}"
start_client
echo "export KUBECONFIG=$root/kubeconfig PATH=$programs:\$PATH"
