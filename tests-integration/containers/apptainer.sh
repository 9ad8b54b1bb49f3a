#!/usr/bin/env bash
# Provide Apptainer on Debian, whose releases do not contain it: the one of Debian's unstable distribution, with all its
# dependencies, is unpacked into its own directory. Nothing is installed, so that any user can do so once apt has its lists
# of packages. Idempotent. Prints the directory of its programs; an installed Apptainer takes precedence.
set -euo pipefail

home=${XDG_CACHE_HOME:-$HOME/.cache}/scalable-tests/apptainer

main() {
    if command -v apptainer >/dev/null; then
        dirname "$(command -v apptainer)"
        return
    fi
    [ -x "$home/usr/bin/apptainer" ] || provide
    echo "$home/usr/bin"
}

provide() {
    local mirror
    mirror=$(find_mirror)
    [ -n "$mirror" ] || {
        echo "apptainer is not installed, and the lists of apt have no Debian mirror to fetch it from" >&2
        exit 1
    }
    mkdir -p "$(dirname "$home")"
    tree=$(mktemp -d "$home.XXXX")
    trap 'rm -rf "$tree"' EXIT
    unpack "$mirror" >&2
    relocate
    mv -T "$tree" "$home" 2>/dev/null || [ -x "$home/usr/bin/apptainer" ] # another process was faster
}

# As this machine's own apt is configured.
find_mirror() {
    command -v apt-get >/dev/null || return 0
    list_mirrors | grep -q . || [ "$(id -u)" != 0 ] || flock /var/lib/apt apt-get -qq update >&2
    list_mirrors | head -n 1
}

list_mirrors() {
    apt-get indextargets --format '$(SITE)' 'Origin: Debian' 'Label: Debian' 'Created-By: Packages'
}

# With an apt that is configured for a machine on which nothing is installed, so that it fetches all libraries, libc too.
unpack() {
    mkdir -p "$tree"/apt/{lists,archives}/partial
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $1 unstable main" >"$tree/apt/sources.list"
    local settings=(
        -o "Dir::State=$tree/apt" -o "Dir::State::status=/dev/null" -o "Dir::Cache=$tree/apt"
        -o "Dir::Etc::SourceList=$tree/apt/sources.list" -o "Dir::Etc::SourceParts=/dev/null"
        -o "Dir::Etc::Preferences=/dev/null" -o "Dir::Etc::PreferencesParts=/dev/null"
        -o "Debug::NoLocking=true" -o "APT::Sandbox::User=root"
    )
    apt-get "${settings[@]}" -qq update
    apt-get "${settings[@]}" -qq install --download-only --no-install-recommends -y apptainer squashfuse patchelf
    local package
    for package in "$tree"/apt/archives/*.deb; do
        dpkg-deb --extract "$package" "$tree"
    done
    rm -r "$tree/apt"
}

# Make the programs find their libraries and each other where the tree will be, and not where Debian has them.
relocate() {
    local program
    local libraries=("$tree"/usr/lib/*-linux-gnu*)
    local loader=("$libraries"/ld-linux-*.so.*)
    local to=$home${libraries#"$tree"}
    for program in "$tree"/usr/bin/{apptainer,mksquashfs,unsquashfs,squashfuse_ll} "$libraries/apptainer/bin/starter"; do
        "$loader" --library-path "$libraries" "$tree/usr/bin/patchelf" \
            --set-interpreter "$to/${loader##*/}" --force-rpath --set-rpath "$to" "$program"
    done
    # Apptainer looks for these two beside bin, and its starter beside its own directory.
    ln -s ../etc ../var "$tree/usr"
    ln -s ../../etc ../../var "$tree/usr/lib"
}

main
