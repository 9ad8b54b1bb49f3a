#!/usr/bin/env bash
# Stop what up.sh brought up: the jobs of each cluster, then the daemons whose pid files are below its root.
set -uo pipefail

root=${SLURM_TEST_ROOT:?is where the cluster keeps its state}

alive() { [ -s "$1" ] && kill -0 "$(cat "$1" 2>/dev/null)" 2>/dev/null; }

cancel_jobs() {
    local -x SLURM_CONF=$1/slurm.conf
    alive "$1/run/slurmctld.pid" || return
    timeout 10 squeue -h -o %A | sort -u | timeout 20 xargs -r scancel --quiet
    for _ in $(seq 60); do
        [ -z "$(timeout 5 squeue -h)" ] && return
        sleep 0.25
    done
}

stop() {
    for file in "$@"; do alive "$file" && kill "$(cat "$file")"; done
    for _ in $(seq 100); do
        local left=
        for file in "$@"; do alive "$file" && left=yes; done
        [ -z "$left" ] && break
        sleep 0.1
    done
    for file in "$@"; do alive "$file" && kill -9 "$(cat "$file")"; done
    rm -f "$@"
}

for state in "$root/far" "$root"; do
    cancel_jobs "$state"
    stop "$state"/run/slurmctld.pid "$state"/run/slurmd-*.pid
done
stop "$root/run/slurmdbd.pid"
stop "$root/run/mariadbd.pid" "$root/run/munged.pid"
