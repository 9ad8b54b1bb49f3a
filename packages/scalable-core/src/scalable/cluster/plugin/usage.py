"""What a task has used: the time of processors, and the most memory that its worker's process had meanwhile."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import Any

__all__ = ["TaskUsage"]

_CLEAR = "/proc/self/clear_refs"
_MAX_UNTAKEN = 1000
_RESET_INTERVAL = 0.05


class TaskUsage:
    """Measures tasks of one worker, as far as that costs microseconds.

    Processors are measured of a process, so of a task only while no other runs beside it. The peak of memory begins
    anew when a task starts and none runs, at most some times a second; it includes what the process holds besides, and
    the largest of the programs that have ended meanwhile.
    """

    def __init__(self) -> None:
        self._running: dict[Any, tuple[float, int, bool]] = {}
        self._ended: dict[Any, tuple[float | None, int | None]] = {}
        self._reset_at = 0.0
        self._clear = -1
        # Only Linux can let the peak of a process begin anew; a container may not allow it.
        with suppress(OSError):
            self._clear = os.open(_CLEAR, os.O_WRONLY)

    def close(self) -> None:
        """Measure no longer."""
        if self._clear >= 0:
            os.close(self._clear)
            self._clear = -1

    def begin(self, key: Any) -> None:
        """Begin to measure a task."""
        alone = not self._running
        if alone:
            self._reset_peak()
        else:
            self._running = {each: (*m[:2], False) for each, m in self._running.items()}
        cpu, child = _used()
        self._running[key] = cpu, child, alone

    def end(self, key: Any) -> None:
        """Keep what a task has used, until `take`."""
        began = self._running.pop(key, None)
        if began is None:
            return
        cpu, child = _used()
        peak = _peak() if self._clear >= 0 else None
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
        now = time.monotonic()
        if self._clear < 0 or now - self._reset_at < _RESET_INTERVAL:
            return
        self._reset_at = now
        try:
            os.pwrite(self._clear, b"5", 0)
        except OSError:
            self.close()


try:
    import resource
except ImportError:  # on Windows

    def _used() -> tuple[float, int]:
        return time.process_time(), 0

    def _peak() -> int | None:
        return None

else:
    _UNIT = 1 if sys.platform == "darwin" else 1024

    def _used() -> tuple[float, int]:
        """Return the seconds of processors of this process and its children, and the most memory of one of these."""
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = time.process_time() + children.ru_utime + children.ru_stime
        return cpu, children.ru_maxrss * _UNIT

    def _peak() -> int | None:
        """Return the peak of this process's memory in bytes, since it was reset."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
