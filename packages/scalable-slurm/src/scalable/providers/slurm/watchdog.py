"""Cancels a run's jobs and removes its keys when the client dies without doing so itself, as after ``kill -9``."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from scalable.providers.slurm.environ import query_environ

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["QueueWatchdog"]

# Waits for the end of its input: the client's end of the pipe closes however the client ends.
_SCRIPT = """
read -r _
scancel --quiet --name="$0"
rm -rf -- "$1/tls"
rmdir -- "$1"  # fails where there are logs, which are kept
"""


class QueueWatchdog:
    """A shell that waits for this process to end, then cancels all jobs with one name and removes the run's keys.

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
    """

    def __init__(self, job_name: str, directory: Path, cluster: str | None = None) -> None:
        self._process = subprocess.Popen(
            ["sh", "-c", _SCRIPT, job_name, str(directory)],  # noqa: S607 - every POSIX system has a shell
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C at the terminal must not stop the watchdog before the client.
            start_new_session=True,
            env=query_environ(os.environ, cluster),
        )

    def stop(self) -> None:
        """Stop the watchdog, which then neither cancels nor removes anything. Idempotent."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
