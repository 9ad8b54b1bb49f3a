#!/usr/bin/env bash
# Provide the programs of a Kubernetes node on Debian: its control plane, kubelet and proxy built from the complete source
# package of Debian 12, the rest from its binary packages. Idempotent: they are built once for each state of this file, and
# a second caller waits for the first. It takes minutes of all cores, and 2.5 GB in TMPDIR. Prints their directory.
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/scalable-tests
version=1.20.2 # in each state of Debian 12, whose package calls it 1.20.5+really1.20.2
home=$cache/kubernetes-$version-$(sha256sum <"${BASH_SOURCE[0]}" | cut -c 1-12)

main() {
    check_machine
    install_packages >&2
    mkdir -p "$cache"
    exec 9>"$home.lock"
    flock 9
    if [ ! -d "$home" ]; then
        set +e # or errors within would be ignored
        (
            set -e
            provide
        ) >"$home.log" 2>&1 9>&-
        set -e
    fi
    [ -d "$home" ] || {
        tail -n 20 "$home.log" >&2
        echo "the programs of Kubernetes cannot be built here; the whole output is in $home.log" >&2
        exit 1
    }
    touch "$home"
    echo "$home"
}

# Here, since programs that cannot run need not be built.
check_machine() {
    local reason
    if [ "$(id -u)" != 0 ]; then
        reason="only root can start a node"
    elif ! command -v apt-get >/dev/null; then
        reason="its programs are built from packages of Debian, and there is no apt-get"
    elif ! reason=$(unshare --fork --pid --mount-proc --net true 2>&1); then
        reason="no namespaces can be made here: $reason"
    else
        return 0
    fi
    echo "no Kubernetes: $reason; with KUBECONFIG, the tests use the cluster that it names" >&2
    exit 1
}

# All that the build and the node need beside what is unpacked into the cache.
install_packages() {
    local command
    for command in make iptables conntrack ip nsenter openssl; do
        command -v "$command" >/dev/null || {
            flock /var/lib/apt apt-get -qq -o DPkg::Lock::Timeout=300 update
            DEBIAN_FRONTEND=noninteractive flock /var/lib/apt apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends \
                make iptables conntrack iproute2 util-linux openssl >/dev/null
            return
        }
    done
}

provide() {
    set -x
    # Those of other states of this file that nobody has used for a month.
    find "$cache" -maxdepth 1 -name 'kubernetes-*' ! -path "$home*" -mtime +30 -exec rm -rf {} +
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    mkdir "$scratch"/{debs,home,packages,programs}
    download
    build
    local programs=$scratch/programs packages=$scratch/packages/usr
    mkdir "$programs/cni"
    cp "$packages"/bin/{etcd,containerd,containerd-shim-runc-v2,ctr,kubectl} "$packages/sbin/runc" "$programs"
    cp "$packages"/lib/cni/{bridge,host-local,loopback,portmap} "$programs/cni"
    # Whole or not at all.
    rm -rf "$home.part"
    mv "$programs" "$home.part"
    mv -T "$home.part" "$home"
}

# With an apt of its own, which knows Debian 12 alone and shares the mirror that this machine uses.
download() {
    local mirror type package
    mirror=$(find_mirror)
    mkdir -p "$scratch"/apt/{lists,archives}/partial
    for type in deb deb-src; do
        echo "$type [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm main"
    done >"$scratch/apt/sources.list"
    cat >"$scratch/apt/apt.conf" <<CONF
Dir::State "$scratch/apt";
Dir::State::status "/dev/null";
Dir::Cache "$scratch/apt";
Dir::Etc::SourceList "$scratch/apt/sources.list";
Dir::Etc::SourceParts "-";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
APT::Sandbox::User "root";
CONF
    export APT_CONFIG=$scratch/apt/apt.conf
    apt-get -qq update
    # rsync with its libraries is for make; the newer reflect2 is explained at `build`.
    (cd "$scratch/debs" && apt-get -qq download \
        golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev rsync libpopt0 libxxhash0 \
        etcd-server containerd runc containernetworking-plugins kubernetes-client)
    for package in "$scratch"/debs/*.deb; do
        dpkg-deb --extract "$package" "$scratch/packages"
    done
    (cd "$scratch" && apt-get -qq source --download-only kubernetes)
    tar -C "$scratch" -xzf "$scratch"/kubernetes_*.orig.tar.gz
    unset APT_CONFIG
}

find_mirror() {
    local mirror
    mirror=$(apt-get indextargets --format '$(SITE)' 'Origin: Debian' 'Label: Debian' 'Created-By: Packages' | head -n 1)
    if [ -z "$mirror" ]; then
        echo "apt knows no mirror of Debian; add one to /etc/apt/sources.list.d, and run apt-get update" >&2
        return 1
    fi
    echo "$mirror"
}

build() {
    cd "$scratch/kubernetes-$version"
    # The vendored reflect2 1.0.1 makes the API server crash in programs of Go 1.18 and later.
    local reflect=github.com/modern-go/reflect2
    rm vendor/$reflect/*.{go,s}
    cp "$scratch/packages/usr/share/gocode/src/$reflect"/*.{go,s} vendor/$reflect
    # kr8s finds a kind by its singular name, which Kubernetes 1.27 and later publish for all kinds.
    sed -i 's|^\treturn &apiResource, resourceInfo, nil$|\
\tif !isSubresource {\
\t\tapiResource.SingularName = strings.ToLower(apiResource.Kind)\
\t}\
&|' staging/src/k8s.io/apiserver/pkg/endpoints/installer.go
    grep -q 'apiResource.SingularName' staging/src/k8s.io/apiserver/pkg/endpoints/installer.go

    export HOME=$scratch/home TMPDIR=$scratch/home
    export GOROOT=$scratch/packages/usr/lib/go-1.19 GOPROXY=off CGO_ENABLED=0
    export LD_LIBRARY_PATH=$(echo "$scratch"/packages/usr/lib/*-linux-gnu)
    export PATH=$GOROOT/bin:$PATH:$scratch/packages/usr/bin
    # Without the clients of clouds, and without dockershim.
    export GOFLAGS=-tags=providerless,dockerless
    make generated_files
    make GOLDFLAGS="-s -w" \
        WHAT="cmd/kube-apiserver cmd/kube-controller-manager cmd/kube-scheduler cmd/kubelet cmd/kube-proxy"
    cp -L _output/bin/kube{-apiserver,-controller-manager,-scheduler,let,-proxy} "$scratch/programs"
    build_pause
}

# The image of the container that holds the namespaces of a pod: a program that waits for its end.
build_pause() {
    local digest image=$scratch/pause
    mkdir "$image"
    cat >"$image/main.go" <<'GO'
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	<-end
}
GO
    cd "$image"
    GO111MODULE=off GOFLAGS= go build -ldflags "-s -w" -o pause main.go
    tar -cf layer.tar pause
    digest=$(sha256sum layer.tar | cut -d " " -f 1)
    cat >config.json <<JSON
{"architecture": "$(go env GOARCH)", "os": "linux", "config": {"Cmd": ["/pause"]},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$digest"]}}
JSON
    echo '[{"Config": "config.json", "RepoTags": ["localhost/pause:1"], "Layers": ["layer.tar"]}]' >manifest.json
    tar -cf "$scratch/programs/pause.tar" config.json layer.tar manifest.json
}

main
