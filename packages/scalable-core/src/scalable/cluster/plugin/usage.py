"""What a task has used: the time of processors, and the most memory that its worker's process had meanwhile."""

from __future__ import annotations

import os
import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["TaskUsage"]

_CLEAR = "/proc/self/clear_refs"
_STATUS = Path("/proc/self/status")
_MAX_UNTAKEN = 1000
_PEAK = re.compile(rb"VmHWM:\s+(\d+) kB")


class TaskUsage:
    """Measures tasks of one worker, as far as that costs microseconds.

    Processors are measured of a process, so of a task only while no other runs beside it. The peak of memory begins
    anew whenever a task starts and none runs; it includes what the process holds besides, and the largest of the
    programs that have ended meanwhile.
    """

    def __init__(self) -> None:
        self._running: dict[Any, tuple[float, int, bool]] = {}
        self._ended: dict[Any, tuple[float | None, int | None]] = {}
        self._can_reset = sys.platform == "linux"

    def begin(self, key: Any) -> None:
        """Begin to measure a task."""
        if not self._running:
            self._reset_peak()
        else:
            self._running = {each: (*m[:2], False) for each, m in self._running.items()}
        cpu, child = _used()
        self._running[key] = cpu, child, len(self._running) == 0

    def end(self, key: Any) -> None:
        """Keep what a task has used, until `take`."""
        began = self._running.pop(key, None)
        if began is None:
            return
        cpu, child = _used()
        peak = _peak()
        if peak is not None and child > began[1]:
            peak = max(peak, child)
        while (
            len(self._ended) >= _MAX_UNTAKEN
        ):  # of tasks that were given back, which report nothing
            del self._ended[next(iter(self._ended))]
        self._ended[key] = (round(cpu - began[0], 3) if began[2] else None), peak

    def take(self, key: Any) -> dict[str, Any]:
        """Return what a task has used, once; empty where it was not measured."""
        cpu, memory = self._ended.pop(key, (None, None))
        return {
            name: each
            for name, each in (("cpu_seconds", cpu), ("peak_memory", memory))
            if each is not None
        }

    def _reset_peak(self) -> None:
        if not self._can_reset:
            return
        try:
            file = os.open(_CLEAR, os.O_WRONLY)
            try:
                os.write(file, b"5")
            finally:
                os.close(file)
        except OSError:  # a container may not allow it; the peak is then that of the process so far
            self._can_reset = False


def _used() -> tuple[float, int]:
    """Return the seconds of processors that this process and its children had, and the most memory of one of these."""
    try:
        import resource
    except ImportError:  # on Windows
        return time.process_time(), 0
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    cpu = time.process_time() + children.ru_utime + children.ru_stime
    return cpu, children.ru_maxrss * unit


def _peak() -> int | None:
    """Return the peak of this process's memory in bytes since it was reset; None where that is not known."""
    with suppress(OSError):
        if found := _PEAK.search(_STATUS.read_bytes()):
            return int(found[1]) * 1024
    return None
