"""What a worker can say that the scheduler does not know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import WorkerPlugin

if TYPE_CHECKING:
    from distributed.worker import Worker

__all__ = ["UnstartedTasks"]


class UnstartedTasks(WorkerPlugin):
    """Lets a worker say which of its tasks it has not started.

    The scheduler cannot know: its view of what executes is as old as the last heartbeat, and a draining worker
    still has in its queue what was sent to it before.
    """

    name = "scalable-unstarted-tasks"

    def setup(self, worker: Worker) -> None:
        """Answer ``scalable_unstarted`` on this worker."""

        def unstarted() -> dict[str, Any]:
            state = worker.state
            return {
                "status": worker.status.name,
                "unstarted": [
                    ts.key
                    for ts in state.tasks.values()
                    if ts.state in ("ready", "constrained", "waiting")
                ],
                "executing": len(state.executing) + len(state.long_running),
            }

        worker.handlers["scalable_unstarted"] = unstarted
