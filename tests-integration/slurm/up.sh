#!/usr/bin/env bash
# Bring up a private Slurm cluster on this machine: munged, slurmctld and several slurmd, as the calling user, without
# systemd. Idempotent: what runs already stays, and nodes that an earlier test drained or lost come back.
# Prints the line that puts the cluster into a client's environment.
#
#   SLURM_TEST_ROOT   state, logs and sockets (required)
#   SLURM_TEST_PORT   first of the ports it takes (default 16817)
#   SLURM_TEST_NODES  nodes (default 4), each claiming 16 CPUs and 64 GB whatever the machine has
set -euo pipefail

root=${SLURM_TEST_ROOT:?is where the cluster keeps its state}
port=${SLURM_TEST_PORT:-16817}
nodes=${SLURM_TEST_NODES:-4}
export SLURM_CONF=$root/slurm.conf PATH=$PATH:/usr/sbin:/sbin

# Under a lock, since an apt does not wait for another one, and several processes of tests come here at once.
install_packages() {
    for command in munged slurmctld slurmd sbatch; do
        command -v "$command" >/dev/null || {
            flock /var/lib/apt apt-get -qq update
            DEBIAN_FRONTEND=noninteractive flock /var/lib/apt apt-get -qq install -y --no-install-recommends \
                munge slurmctld slurmd slurm-client >/dev/null
            return
        }
    done
}

alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

start_munged() {
    [ -s "$root/munge/key" ] || (umask 077 && head -c 1024 /dev/urandom >"$root/munge/key")
    alive "$root/run/munged.pid" && return
    rm -f "$root"/munge/socket*
    munged --num-threads=2 --key-file="$root/munge/key" --socket="$root/munge/socket" \
        --pid-file="$root/run/munged.pid" --log-file="$root/log/munged.log" --seed-file="$root/munge/seed"
}

# proctrack/pgid, not linuxproc: that one does not see a process whose name has a space, as distributed's workers
# give themselves where setproctitle is installed; scancel would then do nothing, and the node be drained.
# EnforcePartLimits: or a job over its partition's limit is accepted and waits for ever.
# cred_expire, SlurmdTimeout: how long a requeued job and a dead node take, which is minutes by default.
write_configuration() {
    local host user
    host=$(hostname -s)
    user=$(id -un)
    cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$root/munge/socket,cred_expire=10
CredType=cred/munge
StateSaveLocation=$root/ctld
SlurmdSpoolDir=$root/spool/%n
SlurmctldPidFile=$root/run/slurmctld.pid
SlurmdPidFile=$root/run/slurmd-%n.pid
SlurmctldLogFile=$root/log/slurmctld.log
SlurmdLogFile=$root/log/slurmd-%n.log
MpiDefault=none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=50000,batch_sched_delay=1,default_queue_depth=1000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
EnforcePartLimits=ALL
ReturnToService=1
SlurmctldTimeout=30
SlurmdTimeout=10
KillWait=2
UnkillableStepTimeout=10
MinJobAge=300
MaxArraySize=101
DefMemPerCPU=256
NodeName=node[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 101))-$((port + 100 + nodes))] CPUs=16 RealMemory=64000 State=UNKNOWN
PartitionName=short Nodes=ALL Default=YES MaxTime=00:30:00 DefaultTime=00:10:00 PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=long Nodes=ALL MaxTime=1-00:00:00 DefaultTime=01:00:00 PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=scavenge Nodes=ALL MaxTime=1-00:00:00 DefaultTime=01:00:00 PriorityTier=1 PreemptMode=REQUEUE State=UP
PartitionName=lent Nodes=ALL MaxTime=1-00:00:00 DefaultTime=01:00:00 PriorityTier=1 PreemptMode=CANCEL State=UP
PartitionName=whole Nodes=ALL MaxTime=1-00:00:00 DefaultTime=01:00:00 OverSubscribe=EXCLUSIVE State=UP
PartitionName=closed Nodes=ALL MaxTime=1-00:00:00 State=DOWN
CONF
}

start_daemons() {
    alive "$root/run/slurmctld.pid" || slurmctld -f "$SLURM_CONF"
    for i in $(seq "$nodes"); do
        mkdir -p "$root/spool/node$i"
        alive "$root/run/slurmd-node$i.pid" || slurmd -f "$SLURM_CONF" -N "node$i"
    done
}

ready_nodes() { sinfo -h -N -p short -t idle,mix,alloc -o %N 2>/dev/null | wc -l; }

await_nodes() {
    for turn in $(seq 900); do
        [ "$(ready_nodes)" -ge "$nodes" ] && return
        if [ "$turn" = 20 ]; then
            for node in $(sinfo -h -N -p short -t drain,down -o %N); do
                scontrol update nodename="$node" state=resume || true # is an error on a node that is back by itself
            done
        fi
        sleep 0.1
    done
    echo "only $(ready_nodes) of $nodes nodes are ready" >&2
    tail -n 5 "$root"/log/*.log >&2
    exit 1
}

install_packages
umask 022
mkdir -p "$root"/{munge,ctld,run,log,spool}
start_munged
write_configuration
start_daemons
await_nodes
echo "export SLURM_CONF=$SLURM_CONF"
