"""What a worker can say that the scheduler does not know."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from distributed.core import ConnectionPool
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.worker import get_data_from_worker

if TYPE_CHECKING:
    from distributed.worker import Worker

__all__ = ["GroupsWorkerPlugin"]

RETRY_DELAY = 0.15
"""Seconds after which a worker that has too many others to serve is asked again."""


class GroupsWorkerPlugin(WorkerPlugin):
    """Lets a worker say which of its tasks it has not started, and whether it can receive a result.

    The scheduler cannot know the first: its view of what executes is as old as the last heartbeat, and a draining
    worker still has in its queue what was sent to it before. Nor does it learn the second.
    """

    name = "scalable-groups-worker"

    def setup(self, worker: Worker) -> None:
        """Answer on this worker."""
        self.worker = worker
        worker.handlers["scalable_unstarted_tasks"] = self.unstarted_tasks
        worker.handlers["scalable_check_transfer"] = self.check_transfer

    def unstarted_tasks(self) -> dict[str, Any]:
        """Say how this worker is, which tasks it has not started, and how many it executes."""
        state = self.worker.state
        return {
            "status": self.worker.status.name,
            "unstarted": [
                ts.key
                for ts in state.tasks.values()
                if ts.state in ("ready", "constrained", "waiting")
            ],
            "executing": len(state.executing) + len(state.long_running),
        }

    async def check_transfer(self, key: Any, holders: list[str]) -> str | None:
        """Receive a result from one of its holders, keep nothing, and say why that cannot be, if so."""
        for holder in holders:
            try:
                while await self._holder_is_busy(key, holder):
                    await asyncio.sleep(RETRY_DELAY)
            except OSError:
                continue  # which says nothing of the result
            except Exception as error:  # noqa: BLE001 - whatever pickling raises is the answer
                return _in_one_line(error)
            return None
        return None

    async def _holder_is_busy(self, key: Any, holder: str) -> bool:
        here = self.worker
        # None of those that the worker has: one over which a result could not be read is out of step from then on.
        connections = await ConnectionPool(
            serializers=here.rpc.serializers,
            deserializers=here.rpc.deserializers,
            connection_args=here.connection_args,
        )
        try:
            got = await get_data_from_worker(connections, [key], holder, who=here.address)
        finally:
            await connections.close()
        return bool(got["status"] == "busy")


def _in_one_line(error: Exception) -> str:
    r"""Say what an error of pickling is: distributed's own has the traceback of its cause in its text.

    Examples
    --------
    >>> _in_one_line(TypeError("Could not serialize\nTraceback …\nOSError: a handle\n"))
    'TypeError: Could not serialize: OSError: a handle'
    """
    lines = [type(error).__name__, *filter(None, str(error).splitlines())]
    return ": ".join(lines if len(lines) < 3 else (*lines[:2], lines[-1]))
