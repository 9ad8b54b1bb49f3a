"""What only a worker knows about its tasks and the results that it can receive."""

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
"""Seconds between requests to a worker that sends results to too many others at present."""


class GroupsWorkerPlugin(WorkerPlugin):
    """Adds handlers to a worker: which tasks it has not started, and whether it can receive a result.

    The scheduler cannot know the first, because its view of executing tasks is as old as the last heartbeat, and a
    draining worker keeps in its queue what was sent to it before. It is never told the second.
    """

    name = "scalable-groups-worker"

    def setup(self, worker: Worker) -> None:
        """Add the handlers to this worker."""
        self.worker = worker
        worker.handlers["scalable_unstarted_tasks"] = self.unstarted_tasks
        worker.handlers["scalable_check_transfer"] = self.check_transfer

    def unstarted_tasks(self) -> dict[str, Any]:
        """Return this worker's status, the tasks it has not started, and the number of tasks it executes."""
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
        """Receive a result from one of its holders and discard it; return why it cannot be received, or None."""
        for holder in holders:
            try:
                while await self._holder_is_busy(key, holder):
                    await asyncio.sleep(RETRY_DELAY)
            except OSError:
                continue  # the holder is at fault, not the result
            except Exception as error:  # noqa: BLE001 - unpickling may raise anything, and that is the reason
                return _in_one_line(error)
            return None
        return None

    async def _holder_is_busy(self, key: Any, holder: str) -> bool:
        here = self.worker
        # A pool of its own, because a connection on which a result could not be read is out of step from then on.
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
    r"""Describe an error of pickling in one line; distributed's own includes the traceback of its cause.

    Examples
    --------
    >>> _in_one_line(TypeError("Could not serialize\nTraceback …\nOSError: a handle\n"))
    'TypeError: Could not serialize: OSError: a handle'
    """
    lines = [type(error).__name__, *filter(None, str(error).splitlines())]
    return ": ".join(lines if len(lines) < 3 else (*lines[:2], lines[-1]))
