#!/usr/bin/env bash
# Bring up a private Slurm cluster on this machine: munged, slurmctld and several slurmd, as the calling user, without
# systemd. Idempotent: what runs already stays, and nodes that an earlier test drained or lost come back.
# Prints the line that puts the cluster into a client's environment.
#
#   SLURM_TEST_ROOT        state, logs and sockets (required)
#   SLURM_TEST_PORT        first of the ports it takes (default 16817)
#   SLURM_TEST_NODES       nodes (default 4), each claiming 16 CPUs and 64 GB whatever the machine has
#   SLURM_TEST_ACCOUNTING  if set, jobs need an account: `free`, or `tiny`, which may have 4 jobs submitted. slurmdbd
#                          keeps them on MariaDB, and knows a second cluster, `far`, with one node and arrays of 4 at most
set -euo pipefail

root=${SLURM_TEST_ROOT:?is where the cluster keeps its state}
port=${SLURM_TEST_PORT:-16817}
nodes=${SLURM_TEST_NODES:-4}
accounting=${SLURM_TEST_ACCOUNTING:-}
database_port=$((port + 1))
export SLURM_CONF=$root/slurm.conf PATH=$PATH:/usr/sbin:/sbin
commands=(munged slurmctld slurmd sbatch)
packages=(munge slurmctld slurmd slurm-client)
if [ -n "$accounting" ]; then
    commands+=(slurmdbd mariadbd mariadb-install-db)
    packages+=(slurmdbd mariadb-server-core mariadb-client-core) # without the service of mariadb-server
fi

# Under a lock, since an apt does not wait for another one, and several processes of tests come here at once.
install_packages() {
    for command in "${commands[@]}"; do
        command -v "$command" >/dev/null || {
            flock /var/lib/apt apt-get -qq update
            DEBIAN_FRONTEND=noninteractive flock /var/lib/apt apt-get -qq install -y --no-install-recommends \
                "${packages[@]}" >/dev/null
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

start_database() {
    local data=$root/database socket=$root/database/socket
    [ -d "$data/mysql" ] || mariadb-install-db --no-defaults --datadir="$data" --user="$(id -un)" \
        --auth-root-authentication-method=normal --skip-test-db >"$root/log/mariadb-install.log" 2>&1
    alive "$root/run/mariadbd.pid" || setsid mariadbd --no-defaults --datadir="$data" --socket="$socket" \
        --pid-file="$root/run/mariadbd.pid" --log-error="$root/log/mariadbd.log" --user="$(id -un)" \
        --skip-networking --skip-grant-tables --innodb-flush-log-at-trx-commit=0 </dev/null >/dev/null 2>&1 &
    await "MariaDB" test -S "$socket"
    (umask 077 && cat >"$root/slurmdbd.conf") <<CONF
AuthType=auth/munge
AuthInfo=socket=$root/munge/socket
DbdHost=localhost
DbdPort=$database_port
SlurmUser=$(id -un)
LogFile=$root/log/slurmdbd.log
PidFile=$root/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=$(id -un)
StorageLoc=slurm_acct_db
CONF
    alive "$root/run/slurmdbd.pid" || MYSQL_UNIX_PORT=$socket slurmdbd
    await "slurmdbd" sacctmgr -n list cluster
}

# sacctmgr fails where it has nothing to add.
keep_accounts() {
    {
        sacctmgr -i -Q add cluster test,far
        sacctmgr -i -Q add account free,tiny
        sacctmgr -i -Q add user "$(id -un)" account=free,tiny defaultaccount=free
        sacctmgr -i -Q modify user where name="$(id -un)" account=tiny set MaxSubmitJobs=4
    } >"$root/log/accounts.log" 2>&1 || true
}

await() {
    local what=$1
    shift
    for _ in $(seq 600); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    echo "$what does not answer" >&2
    tail -n 5 "$root"/log/*.log >&2
    exit 1
}

# proctrack/pgid, not linuxproc: that one does not see a process whose name has a space, as distributed's workers
# give themselves where setproctitle is installed; scancel would then do nothing, and the node be drained.
# EnforcePartLimits: or a job over its partition's limit is accepted and waits for ever.
# cred_expire, SlurmdTimeout: how long a requeued job and a dead node take, which is minutes by default.
write_configuration() {
    local cluster=$1 state=$2 port=$3 nodes=$4 array=$5 host user
    host=$(hostname -s)
    user=$(id -un)
    mkdir -p "$state"/{ctld,run,log,spool}
    cat >"$state/slurm.conf" <<CONF
ClusterName=$cluster
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$root/munge/socket,cred_expire=10
CredType=cred/munge
StateSaveLocation=$state/ctld
SlurmdSpoolDir=$state/spool/%n
SlurmctldPidFile=$state/run/slurmctld.pid
SlurmdPidFile=$state/run/slurmd-%n.pid
SlurmctldLogFile=$state/log/slurmctld.log
SlurmdLogFile=$state/log/slurmd-%n.log
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
MaxArraySize=$array
DefMemPerCPU=256
Licenses=matlab:2
NodeName=node[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 101))-$((port + 100 + nodes))] CPUs=16 RealMemory=64000 State=UNKNOWN
PartitionName=short Nodes=ALL Default=YES MaxTime=00:30:00 DefaultTime=00:10:00 PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=long Nodes=ALL MaxTime=1-00:00:00 DefaultTime=01:00:00 PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=scavenge Nodes=ALL MaxTime=1-00:00:00 DefaultTime=01:00:00 PriorityTier=1 PreemptMode=REQUEUE State=UP
PartitionName=lent Nodes=ALL MaxTime=1-00:00:00 DefaultTime=01:00:00 PriorityTier=1 PreemptMode=CANCEL State=UP
PartitionName=whole Nodes=ALL MaxTime=1-00:00:00 DefaultTime=01:00:00 OverSubscribe=EXCLUSIVE State=UP
PartitionName=closed Nodes=ALL MaxTime=1-00:00:00 State=DOWN
CONF
    [ -z "$accounting" ] || cat >>"$state/slurm.conf" <<CONF
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$database_port
AccountingStoragePass=$root/munge/socket
AccountingStorageEnforce=associations,limits,qos
CONF
}

start_daemons() {
    local state=$1 nodes=$2
    alive "$state/run/slurmctld.pid" || slurmctld -f "$state/slurm.conf"
    for i in $(seq "$nodes"); do
        mkdir -p "$state/spool/node$i"
        alive "$state/run/slurmd-node$i.pid" || slurmd -f "$state/slurm.conf" -N "node$i"
    done
}

ready_nodes() { sinfo -h -N -p short -t idle,mix,alloc -o %N 2>/dev/null | wc -l; }

await_nodes() {
    local state=$1 nodes=$2
    local -x SLURM_CONF=$state/slurm.conf
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
    tail -n 5 "$state"/log/*.log >&2
    exit 1
}

install_packages
umask 022
mkdir -p "$root"/{munge,run,log,database}
start_munged
write_configuration test "$root" "$port" "$nodes" 101
if [ -n "$accounting" ]; then
    write_configuration far "$root/far" $((port + 200)) 1 4
    start_database
    keep_accounts
    start_daemons "$root/far" 1
fi
start_daemons "$root" "$nodes"
await_nodes "$root" "$nodes"
[ -z "$accounting" ] || await_nodes "$root/far" 1
echo "export SLURM_CONF=$SLURM_CONF"
