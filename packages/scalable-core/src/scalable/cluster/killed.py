"""The error of a task that kills workers, also for code that was written for Dask's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distributed import KilledWorker

from scalable.errors import WorkerDiedError

if TYPE_CHECKING:
    from scalable.cluster.port import Explanation

__all__ = ["KilledWorkerError"]


class KilledWorkerError(WorkerDiedError, KilledWorker):
    """A `WorkerDiedError` that ``except KilledWorker`` catches, too. Tasks end in it.

    Attributes
    ----------
    last_worker : str
        The name of the last worker that died. Dask's error has the worker itself.
    allowed_failures : int
        The deaths that did not end the task.
    """

    # Properties of Dask's class, which find them in other arguments.
    task: Any = ""
    last_worker: Any = ""
    allowed_failures: Any = 0

    def __init__(
        self, task: str, deaths: Sequence[tuple[str, str]], explanation: Explanation | None = None
    ) -> None:
        super().__init__(task, deaths, explanation)
        self.last_worker = self.workers[-1]
        self.allowed_failures = self.attempts - 1
