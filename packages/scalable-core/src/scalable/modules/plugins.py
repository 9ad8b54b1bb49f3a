"""Dask plugins that unpack the modules on the scheduler and the workers, sent there by value.

A worker's image may have none of our packages, so nothing here may import `scalable`: the standard library and
distributed only.
"""

from __future__ import annotations

import asyncio
import importlib
import io
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from distributed.diagnostics.plugin import SchedulerPlugin, WorkerPlugin

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler
    from distributed.worker import Worker

__all__ = ["SchedulerModulesPlugin", "WorkerModulesPlugin"]


class _ModulesPlugin:
    """Unpacks an archive, except in the process that packed it.

    Parameters
    ----------
    data : bytes
        The zip file.
    digest : str
        Digest of its content. It is part of the directory's name, so that no process loads stale bytecode.
    process_id : str
        Id of the process that packed it, which has the original modules on its path.
    """

    name = "scalable-modules"

    def __init__(self, data: bytes, digest: str, process_id: str) -> None:
        self.data, self.digest, self.process_id = data, digest, process_id

    async def unpack(self, scratch: str) -> None:
        """Unpack below the server's scratch directory, and put that directory on ``sys.path``.

        It comes after the standard library and the installed packages, because Dask imports some of them late: a
        ``queue.py`` of the workflow's must not take their place. It comes before what was unpacked earlier.

        The modules are not imported from the zip file, because they look for data beside ``__file__`` and
        tracebacks look for their source.
        """
        if (
            getattr(sys.modules.get("scalable.modules.upload"), "PROCESS_ID", None)
            == self.process_id
        ):
            return
        directory = Path(scratch) / f"modules-{self.digest[:16]}"
        await asyncio.to_thread(self._extract, directory)
        earlier = (n for n, entry in enumerate(sys.path) if Path(entry).parent == directory.parent)
        sys.path.insert(next(earlier, len(sys.path)), str(directory))
        importlib.invalidate_caches()

    def _extract(self, directory: Path) -> None:
        with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
            archive.extractall(directory)


class WorkerModulesPlugin(_ModulesPlugin, WorkerPlugin):
    """Unpacks on every worker, before its first task."""

    async def setup(self, worker: Worker) -> None:
        """Unpack on this worker."""
        await self.unpack(worker.local_directory)


class SchedulerModulesPlugin(_ModulesPlugin, SchedulerPlugin):
    """Unpacks on the scheduler, which imports the modules when it unpickles task graphs."""

    async def start(self, scheduler: Scheduler) -> None:
        """Unpack on the scheduler."""
        await self.unpack(scheduler.local_directory)
