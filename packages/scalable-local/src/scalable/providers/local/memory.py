"""Memory that a worker and its children use and the kernel cannot reclaim."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil

from scalable.providers.local.termination import Process

__all__ = ["machine_memory", "usage_above"]

_FIELD = re.compile(rb"^(\w+):\s+(\d+) kB$", re.MULTILINE)


def machine_memory() -> int:
    """Return the memory of this machine in bytes."""
    return psutil.virtual_memory().total


def usage_above(tree: Iterable[Process], limit: int) -> int | None:
    """Return the memory that a tree of processes uses, in bytes, if it is more than `limit`; None otherwise.

    Resident memory is cheap to read but counts shared pages once per process. Only where its sum is above the limit is
    the exact figure read, which the kernel has to add up page by page.
    """
    members = list(tree)
    if sum(process.rss for process in members) <= limit:
        return None
    used = sum(_unreclaimable_memory(process.pid) for process in members)
    return used if used > limit else None


def _unreclaimable_memory(pid: int) -> int:
    if sys.platform == "linux":
        return _read_rollup(pid)
    try:
        return psutil.Process(pid).memory_full_info().uss
    except psutil.Error:  # it has ended, or is another user's
        return 0


def _read_rollup(pid: int) -> int:
    try:
        return _parse_rollup(Path(f"/proc/{pid}/smaps_rollup").read_bytes())
    except OSError:  # it has ended, or is another user's
        return 0


def _parse_rollup(text: bytes) -> int:
    r"""Return the sum of a /proc/<pid>/smaps_rollup in bytes; see proc_pid_smaps(5).

    Anonymous and shared memory count, swapped or not, with shared pages divided among their users: what a cgroup would
    charge and could not reclaim. Pages of files do not count, so that a large data set may be mapped.

    Examples
    --------
    >>> _parse_rollup(b"Rss:  900 kB\nPss:  808 kB\nPss_Anon:  100 kB\nPss_File:  700 kB\nPss_Shmem:  8 kB\n")
    110592
    >>> _parse_rollup(b"Rss:  900 kB\nPss:  800 kB\nSwapPss:  4 kB\n")
    823296
    """
    kilobytes = {name: int(value) for name, value in _FIELD.findall(text)}
    if b"Pss_Anon" in kilobytes:
        used = kilobytes[b"Pss_Anon"] + kilobytes.get(b"Pss_Shmem", 0)
    else:  # Linux before 5.3 does not distinguish them
        used = kilobytes.get(b"Pss", 0)
    return (used + kilobytes.get(b"SwapPss", 0)) * 1024
