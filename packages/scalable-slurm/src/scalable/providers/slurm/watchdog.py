"""Cancels a run's jobs and removes its keys when the client dies without doing so itself, as after ``kill -9``."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING

from scalable.providers.slurm.environ import query_environ

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["QueueWatchdog"]

# Its input ends with the client, unless a process that the client has forked holds the other end of the pipe: it also
# looks whether it still has its parent. Jobs may appear later, from an sbatch under way, and Slurm may not answer for
# hours: for a day, it asks until the queue has been empty for a while, or there is no Slurm any more.
_SCRIPT = """
exec 3<&0  # what runs in the background has no input of its own
read -r _ <&3 &
reader=$!
is_orphan() {
    parent=$(ps -o ppid= -p $$) && [ -n "$parent" ] && [ "$((parent))" -ne "$PPID" ]
}
run=${0#scalable-} limit=$3
find_arrays() {  # by name or, where the site gives them another, by comment, or by script
    listed=$(timeout "$limit" squeue --noheader --user="$(id -u)" --format='job=%F %K %j|%k') || return
    printf '%s\\n' "$listed" | sort -ru | head -n 500 | while IFS= read -r line; do
        array=${line#job=} array=${array%% *}
        case $line in  # among banners, and the name of the cluster
        "job="*" $0|"* | "job="*"|scalable run=$run "*) echo "$array" ;;
        "job="*" N/A "*) ;;
        "job="*)
            timeout "$limit" scontrol write batch_script "$array" - |
                grep -qF "# scalable run=$run " && echo "$array"
            ;;
        esac
    done | sort -u
}
end_submissions() {
    ps -ww -u "$(id -u)" -o pgid= -o args= | while read -r group args; do
        case $args in
        *sbatch*"--job-name=$0 "*) kill -s KILL -- "-$group" ;;
        esac
    done
}
while kill -0 "$reader" && ! is_orphan; do sleep 2; done
kill "$reader"
timeout "$limit" scancel --quiet --name="$0"
rm -rf -- "$1/tls" "$1/jobs" "$1/client"
rmdir -- "$1"  # fails where there are logs, which are kept
empty=0 pause=1 waited=0
while [ "$empty" -lt "$2" ] && [ "$waited" -lt 86400 ]; do
    [ -z "${SLURM_CONF-}" ] || [ -e "$SLURM_CONF" ] || exit
    sleep "$pause"
    # squeue alone may answer with nothing while the controller is away.
    if timeout "$limit" scancel --quiet --name="$0" && arrays=$(find_arrays); then
        if [ -n "$arrays" ]; then
            timeout "$limit" scancel --quiet $arrays
            empty=0
        else
            empty=$((empty + pause))
        fi
    fi
    case $(ps -ww -u "$(id -u)" -o args=) in  # an sbatch of the client's, which it does not end with
    *"--job-name=$0 "*)
        empty=0
        [ "$waited" -lt "$4" ] || end_submissions
        ;;
    esac
    waited=$((waited + pause))
    [ "$pause" -ge 30 ] || pause=$((2 * pause))
done
"""

_SETTLE = 60
"""Seconds for which the queue must have been empty: some sites show it as it was half a minute ago."""


_PATIENCE = 600
"""Seconds after which an ``sbatch`` that outlives the client is ended: until then, it may submit, or say why not."""

_let_go: list[subprocess.Popen[bytes]] = []
"""Watchdogs that nobody waits for. Python would complain about them if it forgot them while they run."""


class QueueWatchdog:
    """A shell that waits for this process to end, removes the run's keys, and cancels jobs until none come any more.

    Running workers exit by themselves when their scheduler is gone. Pending ones would still start, each only to wait
    for its death timeout; the watchdog is for these. Once the last job has ended, nothing but the watchdog would find
    the keys: `list_owned` finds runs by their jobs.

    Parameters
    ----------
    job_name : str
        The name of the run's jobs.
    directory : Path
        The run's directory.
    cluster : str, optional
        The cluster of the jobs; by default, the one of this machine.
    settle : int, optional
        Seconds for which there must be no jobs before it ends.
    limit : int, optional
        Seconds after which one of Slurm's commands that hangs is ended.
    patience : int, optional
        Seconds after which an ``sbatch`` of the client's is ended.
    """

    def __init__(
        self,
        job_name: str,
        directory: Path,
        cluster: str | None = None,
        *,
        settle: int = _SETTLE,
        limit: int = 60,
        patience: int = _PATIENCE,
    ) -> None:
        arguments = [job_name, str(directory), str(settle), str(limit), str(patience)]
        self._process = subprocess.Popen(
            ["sh", "-c", _SCRIPT, *arguments],  # noqa: S607 - every POSIX system has a shell
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C at the terminal must not stop the watchdog before the client.
            start_new_session=True,
            env=query_environ(os.environ, cluster),
        )

    def let_go(self) -> None:
        """Have the watchdog do now what it does after the death of this process, which it outlives. Idempotent."""
        _let_go.append(self._process)
        if self._process.stdin is not None:
            self._process.stdin.close()

    def stop(self) -> None:
        """Stop the watchdog, which then neither cancels nor removes anything. Idempotent."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
