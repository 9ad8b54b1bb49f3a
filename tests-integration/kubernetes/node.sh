#!/usr/bin/env bash
# Be the first process of a node: up.sh runs it in new namespaces of processes, mounts and networks.
#
# All programs find their files in the usual places, where nothing of this machine's is.
set -euo pipefail

root=$1 programs=$2 kopf=$3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH=$programs:$PATH KUBECONFIG=$root/kubeconfig
address=10.90.0.1
api=https://$address:6443
token=$(openssl rand -hex 16)

# -- What the programs see of this machine

mount_files() {
    mkdir -p "$root"/var/{lib,log,tmp}
    ln -s /run "$root/var/run"
    mount --bind "$root/var" /var
    mount -t tmpfs tmpfs /run
    mkdir /run/lock
    # A file of that name may be a link into /run, which is another one now.
    echo "nameserver $address" >"$root/resolv.conf"
    mkdir -p "$(dirname "$(readlink -m /etc/resolv.conf)")"
    touch "$(readlink -m /etc/resolv.conf)"
    mount --bind "$root/resolv.conf" /etc/resolv.conf
    hide_settings
}

# The kubelet gives settings of the whole machine these values. It leaves them where it reads them:
# https://github.com/kubernetes/kubernetes/blob/v1.20.2/pkg/kubelet/cm/container_manager_linux.go#L433-L440
hide_settings() {
    local name value
    mkdir "$root/settings"
    while read -r name value; do
        [ "$(cat "/proc/sys/$name")" = "$value" ] && continue
        echo "$value" >"$root/settings/${name//\//.}"
        mount --bind "$root/settings/${name//\//.}" "/proc/sys/$name"
    done <<SETTINGS
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
SETTINGS
}

make_network() {
    ip link set lo up
    ip link add node type veth peer name client
    ip address add $address/24 dev node
    ip link set node up
    ip route add default via 10.90.0.254 # nobody; Kubernetes takes the node's address from the default route
}

# -- Configuration

write_kubeconfig() {
    (umask 077 && cat >"$KUBECONFIG") <<CONF
apiVersion: v1
kind: Config
clusters: [{name: node, cluster: {server: "$api", certificate-authority: "$root/certificates/apiserver.crt"}}]
users: [{name: admin, user: {token: $token}}]
contexts: [{name: node, context: {cluster: node, user: admin, namespace: default}}]
current-context: node
CONF
    (umask 077 && echo "$token,admin,admin,system:masters" >"$root/tokens")
}

make_service_account_key() {
    openssl genrsa -out "$root/service-accounts.key" 2048
    openssl rsa -in "$root/service-accounts.key" -pubout -out "$root/service-accounts.pub"
}

# restrict_oom_score_adj: root of a virtual machine may lack the capability to lower it.
write_containerd_configuration() {
    cat >"$root/containerd.toml" <<CONF
version = 2
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt",
]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_hugetlb_controller = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "$programs/cni"
  conf_dir = "$root/cni"
CONF
    mkdir "$root/cni"
    cat >"$root/cni/pods.conflist" <<CONF
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "pods", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.91.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
CONF
}

# cgroupsPerQOS: the kubelet would move processes between cgroups of this machine. evictionHard: a disk that is rather
# full would make the node unfit. volumeStatsAggPeriod: by default, a volume that is too full is noticed after a minute.
# syncFrequency: where containerd fails to end a container, the kubelet tries again after this time and up to half of it
# more; by default that is as long as a cluster takes at most to close.
write_kubelet_configuration() {
    cat >"$root/kubelet.yaml" <<CONF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $address
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
clusterDNS: ["$address"]
clusterDomain: cluster.local
resolvConf: $root/resolv.conf
failSwapOn: false
evictionHard: {}
imageGCHighThresholdPercent: 100
volumeStatsAggPeriod: 5s
syncFrequency: 10s
CONF
}

# -- Programs

run() {
    keep_running "$@" &
}

# As the init system of a node does, and the kubelet for what is in static pods: some end by an error that passes.
keep_running() {
    local name=$1 status
    shift
    while true; do
        setsid "$@" >>"$root/log/$name" 2>&1 &
        echo $! >"$root/$name.pid" # within the node
        status=0
        wait $! || status=$?
        echo "$name ended with status $status, and is started again" | tee --append "$root/log/$name"
        sleep 1
    done
}

await() {
    local what=$1 turn
    shift
    for turn in $(seq 900); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    echo "not within 3 minutes: $what" >&2
    tail -n 5 "$root"/log/* >&2
    exit 1
}

start_control_plane() {
    run etcd etcd --data-dir "$root/etcd" --unsafe-no-fsync
    run apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 --cert-dir "$root/certificates" \
        --bind-address $address --advertise-address $address --secure-port 6443 \
        --service-cluster-ip-range 10.77.0.0/16 --kubelet-preferred-address-types InternalIP \
        --token-auth-file "$root/tokens" --authorization-mode RBAC --allow-privileged \
        --service-account-issuer https://kubernetes.default.svc --api-audiences https://kubernetes.default.svc \
        --service-account-key-file "$root/service-accounts.pub" \
        --service-account-signing-key-file "$root/service-accounts.key"
}

start_controllers() {
    run controller-manager kube-controller-manager --kubeconfig "$KUBECONFIG" --leader-elect=false --port 0 \
        --secure-port 0 --service-account-private-key-file "$root/service-accounts.key" \
        --root-ca-file "$root/certificates/apiserver.crt"
    run scheduler kube-scheduler --kubeconfig "$KUBECONFIG" --leader-elect=false --port 0 --secure-port 0
    run kubelet kubelet --config "$root/kubelet.yaml" --kubeconfig "$KUBECONFIG" --hostname-override node \
        --node-ip $address --container-runtime remote \
        --container-runtime-endpoint unix:///run/containerd/containerd.sock
    # Without its settings of the whole machine's connection tracking.
    run proxy kube-proxy --kubeconfig "$KUBECONFIG" --hostname-override node --proxy-mode iptables \
        --cluster-cidr 10.91.0.0/16 --conntrack-max-per-core 0 --conntrack-tcp-timeout-established 0 \
        --conntrack-tcp-timeout-close-wait 0
    run dns python3 "$here/dns.py" "$api" "$root/certificates/apiserver.crt" "$token" $address
}

# Of a busy machine, all containers together would get no more than one process outside of them. down.sh removes it.
make_cgroup() {
    if [ -e /sys/fs/cgroup/cpu/cpu.shares ]; then
        mkdir -p /sys/fs/cgroup/cpu/k8s.io
        echo 8192 >/sys/fs/cgroup/cpu/k8s.io/cpu.shares
    fi
}

import_pause() {
    await "containerd answers" ctr version
    ctr --namespace k8s.io images import "$programs/pause.tar"
}

# The definitions of its objects are in its wheel, as in its chart.
start_operator() {
    kubectl apply --filename "$("$(dirname "$kopf")/python" -c '
from importlib.util import find_spec
print(*find_spec("dask_kubernetes").submodule_search_locations)')/operator/deployment/helm/dask-kubernetes-operator/crds"
    # The operator never acts on what is not served yet when it starts.
    await "the operator's objects are served" objects_are_served
    run operator "$kopf" run --module dask_kubernetes.operator.controller --all-namespaces \
        --liveness http://127.0.0.1:8080/healthz
    await "the operator is alive" python3 -c 'import urllib.request as r; r.urlopen("http://127.0.0.1:8080/healthz")'
}

objects_are_served() {
    local name served
    served=$(kubectl get --raw /apis/kubernetes.dask.org/v1)
    for name in $(kubectl get customresourcedefinitions --output 'jsonpath={.items[*].spec.names.plural}'); do
        [[ $served == *"\"$name\""* ]] || return
    done
}

node_is_ready() {
    kubectl get node node --output 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' | grep -qx True
}

mount_files
make_network
write_kubeconfig
make_service_account_key
write_containerd_configuration
write_kubelet_configuration
make_cgroup
run containerd containerd --config "$root/containerd.toml"
start_control_plane
import_pause
await "the API server is ready" kubectl get --raw /readyz
start_controllers
[ -z "$kopf" ] || start_operator
await "the node is ready" node_is_ready
touch "$root/ready"

# Reap what containers leave.
while true; do
    sleep infinity &
    wait $!
done
