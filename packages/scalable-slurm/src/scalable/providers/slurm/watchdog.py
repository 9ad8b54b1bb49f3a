"""Cancels a run's jobs if the client dies without a word: what it cannot do itself after ``kill -9``."""

from __future__ import annotations

import os
import subprocess

from scalable.providers.slurm.environ import query_environ

__all__ = ["QueueWatchdog"]

# Waits for the end of its input, which comes when the client's end of the pipe closes, however the client ended.
_SCRIPT = 'read -r _; exec scancel --quiet --name="$0"'


class QueueWatchdog:
    """A shell that waits for this process to end, then cancels every job of one name.

    Workers that run end by themselves when their scheduler is gone. Those that wait in the queue would start later,
    each to burn its start and its death timeout; they are what this is for.

    Parameters
    ----------
    job_name : str
        The name of the run's jobs.
    """

    def __init__(self, job_name: str) -> None:
        self._process = subprocess.Popen(
            ["sh", "-c", _SCRIPT, job_name],  # noqa: S607 - every POSIX system has one
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C at the terminal must not end it before the client.
            start_new_session=True,
            env=query_environ(os.environ),
        )

    def stop(self) -> None:
        """End it without cancelling anything. Idempotent."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
